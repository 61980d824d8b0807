"""Fast convolutions on a CPU; `Convolution` is the door. See docs/convolutions.md for how they work and when they are used."""

from asem_models._convolution.layer import Convolution

__all__ = ["Convolution"]
