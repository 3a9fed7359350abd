"""Prompts from JSON lines; long texts are cut where a sentence, line or word ends."""

from ...pipeline.prompts import load_text_data as load_text_data
