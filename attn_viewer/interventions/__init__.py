"""Changing what heads do, and what that does to the model."""
