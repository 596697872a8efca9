"""One study: its folder, its storage, its active trials, and who writes them."""
