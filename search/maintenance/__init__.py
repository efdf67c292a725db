"""Care of databases: doctor, migrate, copy."""
