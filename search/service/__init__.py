"""Whole runs: a search, a final, an agent, a dry run."""
