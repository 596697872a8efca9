"""The `python -m tracking` commands, a file each: HELP, ABOUT and EXIT_CODES for its help,
`add_arguments`, and `run`, which takes the parsed arguments and returns the exit code."""
