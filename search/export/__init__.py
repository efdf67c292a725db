"""A trial as a model file, and predictions with it."""
