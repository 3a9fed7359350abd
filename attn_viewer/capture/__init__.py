"""Capturing attention weights from a running model; the only folder that talks to transformers."""
