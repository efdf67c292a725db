"""Complete runs: a search, a final training, an agent, a dry run."""
