"""Prompts in any form that people have them in, and the inputs of a model."""
