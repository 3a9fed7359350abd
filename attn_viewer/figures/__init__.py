"""Drawing attention maps with matplotlib; nothing here runs a model, saves, prints or shows."""
