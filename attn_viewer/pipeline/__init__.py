"""Many prompts, many models: prompts to a data folder, its figures, indexes and atlas."""
