"""Drawing attention maps with matplotlib; nothing here runs a model, prints or shows."""
