"""Callbacks that a study tells about each trial."""
