"""What runs inside a Ray worker. Knows neither Optuna nor MLflow."""
