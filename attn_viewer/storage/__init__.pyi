"""Public names of this room, and the modules that they come from."""

from .dataset import load_activations as load_activations, load_prompt_maps as load_prompt_maps
