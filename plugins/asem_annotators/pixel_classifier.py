"""Pixel classifier: a forest on multi-scale filters answers within seconds of a few strokes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from asem_annotators._boxes import honour, read_image, spacing_of
from asem_core.abilities import LearnsVoxels
from asem_core.errors import BadInput, MissingExtra
from asem_core.files import mapped_array
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Annotator
from asem_core.volume import Box, Volume, as_zyx

if TYPE_CHECKING:
    from asem_annotators._pixel_learner import PixelLearner
    from asem_core.blocks import Run

SLAB_VX = 2_000_000
"""Voxels that are filtered, or judged, at once: what bounds the memory."""

BYTES_PER_VOXEL = 6  # the image as float32, and as it is read


@attrs.frozen
class PixelClassifier(Annotator, LearnsVoxels):
    """Classify each voxel by its surroundings, as learnt from the seeds (extremely randomised trees, Geurts et al. 2006; scikit-learn).

    Good for textures and outlines that look alike everywhere; it does not see the shape of an object. The filters
    are computed once for a box and cached, so further strokes take seconds.

    Parameters
    ----------
    scales
        Standard deviations of the filters, in units of the finest edge of a voxel.
    trees
        Number of trees: more give a smoother result, and take proportionally longer.
    least_leaf
        Smallest number of seeded voxels in a leaf of a tree: more make a wrong stroke matter less.
    threshold
        A voxel with at least this probability is object.
    most_seeds
        Largest number of seeded voxels per class to learn from, drawn evenly.
    """

    name: ClassVar[str] = "pixel-classifier"

    scales: tuple[float, ...] = (0.7, 1.0, 1.6, 3.5, 5.0)
    trees: int = 64
    least_leaf: int = 10
    threshold: float = 0.5
    most_seeds: int = 50_000

    def __attrs_post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise BadInput(f"pixel-classifier: every scale must be more than 0, got {list(self.scales)}.")
        if min(self.trees, self.least_leaf, self.most_seeds) < 1:
            raise BadInput("pixel-classifier: trees, least_leaf and most_seeds must be at least 1.")
        if not 0 < self.threshold <= 1:
            raise BadInput(f"pixel-classifier: the threshold is a probability above 0, got {self.threshold:g}.")

    def learner(self, volume: Volume) -> PixelLearner:
        """Learn from strokes anywhere in an image (see `LearnsVoxels`).

        Raises
        ------
        MissingExtra
            scikit-learn is not installed.
        """
        from asem_annotators._pixel_learner import PixelLearner

        _require_sklearn()
        return PixelLearner(self, volume)

    def prepare(self, volume: Volume, box: Box, run: Run) -> PreparedPixelClassifier:
        """Filter the box, slab by slab, into a file in `run.scratch` (see `Annotator.prepare`).

        Raises
        ------
        MissingExtra
            scikit-learn is not installed.
        """
        _require_sklearn()
        from asem_annotators._filters import num_filters

        image = read_image(volume, box, BYTES_PER_VOXEL).astype(np.float32)
        image /= 255
        shape = (num_filters(self.scales), *box.shape)
        maps = _Maps.at(run.scratch, shape)
        maps.fill(image, spacing_of(volume), self.scales)
        return PreparedPixelClassifier(self, maps)


@attrs.frozen(eq=False)
class PreparedPixelClassifier:
    """Filters of a box, to learn from seeds."""

    options: PixelClassifier
    maps: _Maps

    def __call__(self, seeds: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        """Label the box (see `PreparedAnnotator`); `previous` has no influence."""
        found = self.probability(seeds) >= np.ceil(255 * self.options.threshold)
        return honour(seeds, found)

    def probability(self, seeds: np.ndarray) -> np.ndarray:
        """Say how likely each voxel of the box is object: uint8, 255 = certain.

        Raises
        ------
        BadInput
            Seeds of one class only.
        """
        forest = self._learn(seeds)
        result = np.empty(seeds.shape, np.uint8)
        for begin, end, values in self.maps.slabs():
            judged = forest.judge(values)
            result[begin:end] = np.rint(judged * 255).astype(np.uint8).reshape(-1, *seeds.shape[1:])
        return result

    def _learn(self, seeds: np.ndarray) -> _Forest:
        rng = np.random.default_rng(0)
        places = []
        for value in (1, 2):
            found = np.flatnonzero(seeds == value)
            places.append(np.sort(rng.choice(found, min(found.size, self.options.most_seeds), replace=False)))
        return grow(self.options, *(self.maps.at_voxels(p) for p in places))


def grow(options: PixelClassifier, inside: np.ndarray, outside: np.ndarray) -> _Forest:
    """Grow the forest of an object's and a background's voxels: float32 (voxels, maps) each.

    Raises
    ------
    BadInput
        One of the two is empty.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    for values, what in ((inside, "object"), (outside, "background")):
        if not len(values):
            raise BadInput(f"pixel-classifier needs strokes of both classes; none is {what}.")
    forest = ExtraTreesClassifier(
        options.trees, min_samples_leaf=options.least_leaf, class_weight="balanced", n_jobs=-1, random_state=0
    )
    classes = np.repeat([1, 0], [len(inside), len(outside)])
    return _Forest.of(forest.fit(np.concatenate([inside, outside]), classes))


@attrs.frozen(eq=False)
class _Forest:
    """Trees as flat arrays: judged by a compiled loop."""

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, forest: Any) -> _Forest:
        parts: list[list[np.ndarray]] = [[], [], [], [], []]
        roots, base = [], 0
        for tree in (e.tree_ for e in forest.estimators_):
            roots.append(base)
            inner = tree.children_left >= 0
            weight = tree.value[:, 0, :]
            for part, values in zip(
                parts,
                (
                    np.where(inner, tree.feature, 0).astype(np.int32),
                    tree.threshold.astype(np.float32),
                    np.where(inner, tree.children_left + base, -1).astype(np.int32),
                    np.where(inner, tree.children_right + base, -1).astype(np.int32),
                    (weight[:, 1] / weight.sum(axis=1)).astype(np.float32),
                ),
                strict=True,
            ):
                part.append(values)
            base += tree.node_count
        return cls(np.array(roots, np.int32), *(np.concatenate(p) for p in parts))

    def judge(self, values: np.ndarray) -> np.ndarray:
        """Average the trees' shares of object: float32 (voxels, maps) -> float32 (voxels,)."""
        from asem_annotators import _filter_kernels as kernels
        from asem_core.voxels.slabs import in_slabs

        result = np.empty(len(values), np.float32)
        nodes = (self.roots, self.feature, self.threshold, self.left, self.right, self.share)
        in_slabs(lambda a, b: kernels.vote(values, *nodes, result, a, b), len(values))
        return result


@attrs.frozen(eq=False)
class _Maps:
    """The filters of a box as float16 (maps, z, y, x): in a file that is kept where there is a folder, else in memory."""

    values: np.ndarray
    done: Path | None

    @classmethod
    def at(cls, folder: Path | None, shape: tuple[int, ...]) -> _Maps:
        if folder is None:
            return cls(np.empty(shape, np.float16), None)
        folder.mkdir(parents=True, exist_ok=True)
        file, done = folder / "filters.npy", folder / "filters.json"
        with contextlib.suppress(FileNotFoundError, ValueError):
            if json.loads(done.read_text(encoding="utf-8"))["shape"] == list(shape):
                return cls(np.load(file, mmap_mode="r"), done)
        done.unlink(missing_ok=True)
        return cls(mapped_array(file, np.float16, shape), done)

    def fill(self, image: np.ndarray, spacing: tuple[float, float, float], scales: tuple[float, ...]) -> None:
        """Filter the image, unless it was done before."""
        if self.done is not None and self.done.exists():
            return
        from asem_annotators._filters import filters, reach, slabs

        around = reach(scales, spacing)[0]
        for begin, end in slabs(as_zyx(image.shape), SLAB_VX):
            first, last = max(0, begin - around), min(image.shape[0], end + around)
            inner = Box((begin - first, 0, 0), (end - first, *image.shape[1:]))
            self.values[:, begin:end] = filters(image[first:last], spacing, scales, inner)
        if self.done is not None:
            if isinstance(self.values, np.memmap):
                self.values.flush()
            self.done.write_text(json.dumps({"shape": list(self.values.shape)}), encoding="utf-8")

    def at_voxels(self, flat: np.ndarray) -> np.ndarray:
        """Take the maps of voxels: float32 (voxels, maps)."""
        return self.values.reshape(len(self.values), -1)[:, flat].T.astype(np.float32)

    def slabs(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield (first plane, end, float32 (voxels, maps)) slab by slab."""
        from asem_annotators._filters import slabs

        for begin, end in slabs(as_zyx(self.values.shape[1:]), SLAB_VX):
            part = self.values[:, begin:end].reshape(len(self.values), -1)
            yield begin, end, np.ascontiguousarray(part.T.astype(np.float32))


def _require_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtra.of("classifier", "The pixel classifier needs scikit-learn") from None


@hookimpl
def register_annotators() -> list[type[Annotator]]:
    return [PixelClassifier]
