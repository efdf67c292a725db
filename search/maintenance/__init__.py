"""Database maintenance: doctor, migrate, copy."""
