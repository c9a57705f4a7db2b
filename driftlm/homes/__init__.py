"""A memory that lives in a folder: journal, snapshots, exact replay, deletion, tenants, export."""
