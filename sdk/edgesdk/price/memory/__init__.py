"""The memory that a network adds to a process, from the graph alone: a module for each runtime that was looked into."""
