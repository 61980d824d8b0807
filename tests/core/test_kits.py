"""The kits catch what a plugin gets wrong: each mistake is planted, and told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from asem_core import threshold_objects
from asem_core.blocks import Run
from asem_core.errors import PluginError
from asem_core.interfaces import Fitted, Model, Preprocessor
from asem_core.prediction.trained import network_of, require_steps
from asem_core.testing import ModelKit
from asem_core.volume import Volume, Zyx, as_zyx


@attrs.frozen
class Planted(Model):
    """A model whose network may say something else than it does."""

    name: ClassVar[str] = "planted"
    says_context: tuple[int, int, int] = (1, 1, 1)
    says_alignment: tuple[int, int, int] = (2, 2, 2)
    channels: int = 2
    padded: bool = False
    pooled: bool = True

    def network(self) -> Any:
        return _network(self)

    def label_steps(self) -> list[Preprocessor]:
        return []

    def exclusion_zone(self) -> Preprocessor | None:
        return None

    def segment(self, probability: Volume, run: Run) -> Fitted:
        return threshold_objects(probability, run)


def _network(says: Planted) -> Any:
    import torch

    class Small(torch.nn.Module):
        context, alignment = says.says_context, says.says_alignment

        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv3d(1, 4, 3, padding=1 if says.padded else 0)
            self.last = torch.nn.Conv3d(4, says.channels, 1)

        def input_shape(self, output: Sequence[int]) -> Zyx:
            steps = [-(-n // a) * a for n, a in zip(output, self.alignment, strict=True)]
            return as_zyx([n + 2 * c for n, c in zip(steps, self.context, strict=True)])

        def output_shape(self, shape: Sequence[int]) -> Zyx:
            return as_zyx([n - 2 * c for n, c in zip(shape, self.context, strict=True)])

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            found = self.last(torch.relu(self.first(image)))
            if not says.pooled:
                return found
            grown = torch.nn.functional.interpolate(found[..., ::2, ::2, ::2], scale_factor=2)
            return grown[(..., *(slice(n) for n in found.shape[2:]))]

    return Small()


def check(tmp_path: Path, **wrong: Any) -> None:
    class Kit(ModelKit):
        plugin = Planted(**wrong)

    Kit().test_network_says_its_shapes(tmp_path)
    Kit().test_network_sees_no_further_than_its_context(tmp_path)


def test_a_right_network_passes(tmp_path: Path) -> None:
    """With a context, and with steps of two voxels."""
    check(tmp_path)
    check(tmp_path, pooled=False, says_alignment=(1, 1, 1))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"says_context": (2, 2, 2)}, "output_shape says"),
        ({"says_context": (0, 0, 0)}, r"takes no input of \(2, 2, 2\) voxels, which its input_shape asks for"),
        ({"says_context": (0, 0, 0), "padded": True}, "sees further than its context"),
        ({"says_alignment": (1, 1, 1)}, "shifts by less than its alignment"),
        ({"channels": 3}, "gives 3 channels"),
    ],
)
def test_what_a_network_gets_wrong_is_told(wrong: dict[str, Any], told: str, tmp_path: Path) -> None:
    """Of context, alignment and channels, by what it predicts."""
    with pytest.raises((AssertionError, PluginError), match=told):
        check(tmp_path, **wrong)


def test_what_a_model_returns_is_checked_before_work() -> None:
    """A network that does not say its geometry, and label steps that are none, name the model."""
    with pytest.raises(PluginError, match=r"the model 'planted' says alignment = \(0, 1, 1\)"):
        network_of(Planted(says_alignment=(0, 1, 1)))

    class NoGeometry(Planted):
        def network(self) -> Any:
            import torch

            return torch.nn.Conv3d(1, 2, 3)

        def label_steps(self) -> list[Preprocessor]:
            return ["clean-labels"]  # type: ignore[list-item]

    with pytest.raises(PluginError, match="'planted' does not say its context, alignment, input_shape, output_shape"):
        network_of(NoGeometry())
    with pytest.raises(PluginError, match="'planted' prepares labels by str, which is not a preprocessor"):
        require_steps(NoGeometry())
