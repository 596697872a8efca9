"""From the best trial to a model that one can trust."""
