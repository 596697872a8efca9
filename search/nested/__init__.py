"""A nested study: one search for each outer fold, and the figure of all of them together."""
