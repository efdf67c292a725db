"""optuna-dashboard behind access control."""
