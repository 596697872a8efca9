"""What the machine has, and what it lets this account do."""
