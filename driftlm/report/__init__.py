"""What a person looks at: tallies of a run, charts, pages, tables, and what is on the screen meanwhile."""
