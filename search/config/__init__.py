"""The configuration of a study: its options, and what they come to on this machine."""
