"""What the steps for labels share."""

from __future__ import annotations

from asem_core.errors import BadInput
from asem_core.volume import Volume


def require_labels(volume: Volume, what: str) -> None:
    """Refuse a volume of fractions.

    Raises
    ------
    BadInput
    """
    if volume.dtype.kind not in "uib":
        raise BadInput(
            f"{what} works on labels, which are whole numbers, but {volume.path} holds {volume.dtype}. "
            "Is it an image or a probability map? Threshold it first."
        )
