"""A third party's plugins: one of each kind, from the public contracts only, with uncommon choices. Not a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from asem_core import open_volume
from asem_core.abilities import WritesVolumes
from asem_core.blocks import Run
from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import (
    Analysis,
    Analyzer,
    Annotator,
    Changes,
    Column,
    Fitted,
    Model,
    Preprocessor,
    Region,
    Sampler,
    Source,
)
from asem_core.paths import FilePath, LayerPath
from asem_core.volume import Box, Labels, Outside, Spec, Volume, Zyx


@attrs.frozen
class LabFiles(Source, WritesVolumes):
    """A folder `.lab` with image.npy and truth.npy."""

    name: ClassVar[str] = "lab-files"
    dtypes: ClassVar[Sequence[str]] = ("uint8", "uint16")
    where: FilePath

    @classmethod
    def can_read(cls, path: str) -> bool:
        return (Path(path) / "image.npy").exists()

    @classmethod
    def can_write(cls, path: str) -> bool:
        return path.endswith(".lab")

    def layers(self) -> list[str]:
        return [n for n in ("image", "truth") if (Path(self.where) / f"{n}.npy").exists()]

    def open(self, layer: str | None = None) -> Volume:
        file = Path(self.where) / f"{layer or 'image'}.npy"
        if not file.exists():
            raise BadInput(f"{file} does not exist.")
        return Volume(np.load(file), 8.0, path=str(file))

    def write(self, volume: Volume, run: Run) -> Sequence[str]:
        folder = Path(self.where)
        folder.mkdir(exist_ok=True)
        np.save(folder / "image.npy", volume.read())
        return ["It keeps no place."]


@attrs.frozen
class Trim(Preprocessor):
    """Cut a margin off on every side."""

    name: ClassVar[str] = "lab-trim"
    changes: ClassVar[Changes] = "place"
    margin_vx: int = 1

    def fit(self, volume: Volume, run: Run) -> FittedTrim:
        return FittedTrim(volume.crop(volume.box.grow(-self.margin_vx)).spec, self.margin_vx)


@attrs.frozen
class FittedTrim(Fitted):
    output: Spec
    margin: int
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return box.shift([self.margin] * 3)

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        return block


@attrs.frozen
class Middle(Annotator):
    """The middle half of the box is object."""

    name: ClassVar[str] = "lab-middle"
    needs_seeds: ClassVar[bool] = False

    def prepare(self, volume: Volume, box: Box, run: Run) -> PreparedMiddle:
        return PreparedMiddle(box.shape)


@attrs.frozen
class PreparedMiddle:
    shape: Zyx

    def __call__(self, seeds: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        result = np.zeros(self.shape, np.uint8)
        result[tuple(slice(n // 4, n // 4 + n // 2) for n in self.shape)] = 1
        result[seeds == 1], result[seeds == 2] = 1, 0
        return result


@attrs.frozen
class Corner(Sampler):
    """Always the same corner."""

    name: ClassVar[str] = "lab-corner"
    off: int = 0

    def boxes(self, regions: Sequence[Region], shape: Zyx, rng: np.random.Generator) -> Iterator[tuple[int, Box]]:
        while True:
            yield 0, Box((0, 0, 0), shape).shift([self.off] * 3)


@attrs.frozen
class LabOrganelle(Model):
    """Only the largest object, where the probability is high; the network is the grey value itself."""

    name: ClassVar[str] = "lab-organelle"
    threshold: float = 0.8

    def network(self) -> Any:
        import torch

        class Grey(torch.nn.Module):
            context = (0, 0, 0)
            alignment = (1, 1, 1)

            def __init__(self) -> None:
                super().__init__()
                self.gain = torch.nn.Parameter(torch.tensor(1.0))

            def input_shape(self, output: Sequence[int]) -> Zyx:
                return tuple(output)  # type: ignore[return-value]

            def output_shape(self, shape: Sequence[int]) -> Zyx:
                return tuple(shape)  # type: ignore[return-value]

            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return torch.logit(((image + 1) / 2 * self.gain).clamp(1e-4, 1 - 1e-4))

        return Grey()

    def label_steps(self) -> list[Preprocessor]:
        return []

    def exclusion_zone(self) -> Preprocessor | None:
        return None

    def segment(self, probability: Volume, run: Run) -> Largest:
        from asem_core.voxels.components import components

        def sure(box: Box) -> np.ndarray:
            return probability.read(box) >= 255 * self.threshold

        found = components(sure, probability.box, (16, 16, 16), run, 6, name="lab-objects")
        largest = found.select(found.voxels == found.voxels.max(initial=0))
        return Largest(attrs.evolve(probability.spec, dtype=np.dtype(np.uint8)), largest)


@attrs.frozen
class Largest(Fitted):
    output: Spec
    found: Any
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return box

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        return (self.found.read(box) > 0).astype(np.uint8)


@attrs.frozen
class Count(Analyzer):
    """How many voxels lie in a further layer."""

    name: ClassVar[str] = "lab-count"
    within: LayerPath | None = None

    def analyze(self, segmentation: Labels, raw: Volume | None, run: Run) -> Analysis:
        inside = segmentation.read() > 0
        if self.within is not None:
            layer: Labels = open_volume(self.within, kind=Labels)
            place = layer.box_of(segmentation)
            inside &= layer.read(place) > 0
        column = Column(np.array([int(inside.sum())]), "voxels inside")
        return Analysis({"counts": {"inside_vx": column}}, numbers={"inside": int(inside.sum())})


@hookimpl
def register_sources() -> list[type[Source]]:
    return [LabFiles]


@hookimpl
def register_preprocessors() -> list[type[Preprocessor]]:
    return [Trim]


@hookimpl
def register_annotators() -> list[type[Annotator]]:
    return [Middle]


@hookimpl
def register_samplers() -> list[type[Sampler]]:
    return [Corner]


@hookimpl
def register_models() -> list[type[Model]]:
    return [LabOrganelle]


@hookimpl
def register_analyzers() -> list[type[Analyzer]]:
    return [Count]
