"""The command line: one file a verb, which calls one function of one part."""
