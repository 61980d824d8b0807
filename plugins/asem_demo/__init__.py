"""The one-command demonstration: a phantom cell from image to numbers."""
