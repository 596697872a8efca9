"""A run that trains several folds of its data side by side."""
