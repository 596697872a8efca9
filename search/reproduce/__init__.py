"""A trial trained again from its MLflow run."""
