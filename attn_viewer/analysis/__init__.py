"""Numbers about heads, from attention maps alone: numpy and scipy, no model."""
