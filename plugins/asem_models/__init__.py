"""Built-in models: one module per organelle."""
