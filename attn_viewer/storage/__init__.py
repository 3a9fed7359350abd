"""Attention maps on disk."""
