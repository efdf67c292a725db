"""One trial: its training, its records, its outcome."""
