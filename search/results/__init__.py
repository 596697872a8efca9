"""What a study came to, as data and figures."""
