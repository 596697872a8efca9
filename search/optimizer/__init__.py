"""What Optuna is told: search space, samplers, pruners."""
