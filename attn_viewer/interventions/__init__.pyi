"""Public names of this room, and the modules that they come from."""

from .head_effects import HeadEffect as HeadEffect
