"""Tracking: every record to local disk first, from there to MLflow by a thread of its own.

The driver writes through `tracking.tracker.Tracker` and waits for nothing. An outage of hours
loses nothing and stops nothing; `python -m tracking flush FOLDER` sends what a finished or
broken study has left.
"""
