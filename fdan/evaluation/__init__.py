"""What predictions are worth: statistics, stored predictions, the baseline."""
