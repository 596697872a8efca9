"""Records on local disk and their way to the server."""
