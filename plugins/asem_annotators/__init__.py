"""Built-in annotators: one module per way from seeds to labels."""
