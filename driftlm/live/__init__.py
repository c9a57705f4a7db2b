"""A memory that lives in a folder: journal, checkpoint, snapshots, tenants."""
