"""Built-in sources: one module per file format."""
