"""What outlives a crash: files written whole, SQLite, and JSON that says by a checksum whether it was changed."""
