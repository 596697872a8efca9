"""Studies under faults: real processes killed at random moments, and what must hold afterwards."""
