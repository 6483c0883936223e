"""The search for the most likely spelling, which knows no network."""
