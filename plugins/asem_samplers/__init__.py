"""Built-in samplers: one module per way to draw training boxes."""
