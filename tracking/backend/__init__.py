"""The MLflow server, as the sender calls it."""
