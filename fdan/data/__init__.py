"""From a corpus to prepared stores, tasks and splits."""
