"""Worker processes, local or on Ray, and the pool that runs them."""
