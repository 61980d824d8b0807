"""Built-in preprocessors: one module per step."""
