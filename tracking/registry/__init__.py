"""The model registry and what a registered model consists of."""
