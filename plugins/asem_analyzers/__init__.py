"""Built-in analyzers: one module per analysis."""
