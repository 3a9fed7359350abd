"""Public names of this room, and the modules that they come from."""

from .activations import compute_activations as compute_activations, get_activations as get_activations
from .prompts import load_text_data as load_text_data
