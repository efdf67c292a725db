"""What a study is made of: its TOML tables, domains, search space and settings."""
