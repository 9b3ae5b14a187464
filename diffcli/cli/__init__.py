"""The command line: one command a file; each parses, then calls the engine."""
