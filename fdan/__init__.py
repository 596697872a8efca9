"""FDAN: the Feature Distribution Adaptation Network, its data and one training run of it."""

__version__ = "0.1.0"
