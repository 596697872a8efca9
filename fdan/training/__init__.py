"""One training run, from arrays on the device to checkpoints."""
