"""Evaluation of predictions: statistics, stored predictions, the yardsticks."""
