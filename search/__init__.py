"""A study: the space, Optuna inside Ray Tune, and what the terminal shows of it."""
