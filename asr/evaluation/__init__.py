"""The report on a decoded set: one page, for a person who never saw the project."""
