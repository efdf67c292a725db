"""A study as it is stored: its specification, inputs, provenance and run time."""
