"""What stops or pauses a weak trial."""
