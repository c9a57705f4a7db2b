"""Files that grow, folders that fill and pipes that go on."""
