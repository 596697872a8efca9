"""The network of the paper, Eq. 1-9."""
