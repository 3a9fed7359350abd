"""Many prompts, many models: prompts to a data folder, its figures, indexes and atlas."""

from ..hints import hand_out

__getattr__, __dir__, __all__ = hand_out(__name__, __file__)
