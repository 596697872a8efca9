"""The sections of a report: each function yields its blocks."""
