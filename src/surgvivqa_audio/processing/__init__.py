"""Sample -> model inputs: prompts, special tokens and lengths live here and nowhere else."""
