"""Attention maps on disk."""

from ..hints import hand_out

__getattr__, __dir__, __all__ = hand_out(__name__, __file__)
