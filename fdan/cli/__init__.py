"""The commands of `python -m fdan` and the arguments that training and searching share."""
