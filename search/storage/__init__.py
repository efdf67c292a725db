"""The database: schema, reads, writes, leases and their expiry."""
