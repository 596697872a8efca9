"""Measurements: ours against limits and peers; each is a command."""
