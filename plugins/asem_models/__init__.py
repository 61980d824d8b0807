"""Built-in models: one module per organelle. `Organelle` is what a further organelle derives from."""

from asem_models._organelle import Organelle

__all__ = ["Organelle"]
