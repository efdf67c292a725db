"""Export of a trial as a model file, and prediction with it."""
