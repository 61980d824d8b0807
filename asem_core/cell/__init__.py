"""A layer on disk: its record, its arrays, its pyramid, its locks."""
