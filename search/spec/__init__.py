"""The parts of a study: its TOML tables, domains, search space and settings."""
