"""Evaluation of predictions: statistics, stored predictions, the baseline."""
