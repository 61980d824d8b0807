"""Make voxels larger by a whole factor: the mean for images, the most frequent id for labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.abilities import AveragesVoxels
from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Fitted, Preprocessor
from asem_core.volume import Box, Labels, Outside, Spec, Volume, Zyx, as_zyx, as_zyx_nm
from asem_preprocessors._greys import finite

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen
class Downsample(Preprocessor, AveragesVoxels):
    """Shrink a volume by whole factors (Gallusser et al. 2022: 5 to 10 nm).

    Each voxel of the result covers factor^3 voxels of the input; at the far border it covers fewer, and
    no voxel is dropped. The origin moves to the centre of the first, larger voxel.

    Parameters
    ----------
    factor
        Factor along each axis, one number or three (z, y, x). By default 2, if `to_voxel_size_nm` is not given.
    to_voxel_size_nm
        The new voxel size, one number or three, instead of `factor`; a whole multiple of the volume's.
    method
        "mean" (rounded half to even for whole numbers), or "mode": the most frequent annotated value. If an
        object has as many voxels as the background, it gets every second voxel, as on a chessboard, so that thin objects neither
        vanish nor grow. By default "mode" for volumes opened as labels, otherwise "mean".
    """

    name: ClassVar[str] = "downsample"
    changes: ClassVar[Changes] = "size"

    factor: int | tuple[int, int, int] | None = None
    to_voxel_size_nm: float | tuple[float, float, float] | None = None
    method: Literal["mean", "mode"] | None = None

    def __attrs_post_init__(self) -> None:
        if self.factor is not None and self.to_voxel_size_nm is not None:
            raise BadInput("downsample: factor and to_voxel_size_nm are both given; keep one.")
        if self.factor is not None and min(as_zyx(self.factor)) < 1:
            raise BadInput(f"downsample: factor must be at least 1, got {self.factor}.")
        if self.method not in ("mean", "mode", None):
            raise BadInput(f"downsample: method must be 'mean' or 'mode', got '{self.method}'.")

    @classmethod
    def by_factor(cls, factor: Zyx) -> Downsample:
        """Make the step of three factors."""
        return cls(factor=factor)

    def fit(self, volume: Volume, run: Run) -> FittedDownsample:
        """Work out the factors and the new grid.

        Raises
        ------
        BadInput
            The voxel size wanted is not a whole multiple; or the mode of fractions is asked for.
        """
        factor = self._factor_for(volume)
        mode = self.method == "mode" or (self.method is None and isinstance(volume, Labels))
        if mode and volume.dtype.kind not in "uib":
            raise BadInput(
                f"downsample: method 'mode' is for labels, but {volume.path} holds {volume.dtype}. Use 'mean'."
            )
        size = as_zyx_nm([s * f for s, f in zip(volume.voxel_size_nm, factor, strict=True)])
        origin = [o + (n - s) / 2 for o, n, s in zip(volume.origin_nm, size, volume.voxel_size_nm, strict=True)]
        shape = as_zyx([-(-n // f) for n, f in zip(volume.shape, factor, strict=True)])
        known = volume.known if mode and isinstance(volume, Labels) else None
        return FittedDownsample(Spec(shape, volume.dtype, size, as_zyx_nm(origin)), factor, volume.box, mode, known)

    def _factor_for(self, volume: Volume) -> Zyx:
        if self.to_voxel_size_nm is None:
            return as_zyx(2 if self.factor is None else self.factor)
        wanted = np.array(as_zyx_nm(self.to_voxel_size_nm)) / volume.voxel_size_nm
        factor = np.rint(wanted).astype(int)
        if factor.min() < 1 or np.abs(wanted / factor - 1).max() > 1e-3:
            raise BadInput(
                f"downsample: {self.to_voxel_size_nm} nm is not a whole multiple of the {list(volume.voxel_size_nm)} nm of "
                f"{volume.path}. Choose a multiple."
            )
        return as_zyx(factor.tolist())


@attrs.frozen
class FittedDownsample(Fitted):
    """Factors for one volume."""

    output: Spec
    factor: Zyx
    source: Box
    mode: bool
    known: Volume | None = None
    outside: ClassVar[Outside] = "error"

    @property
    def attributes(self) -> Mapping[str, Any]:
        return {"kind": "labels"} if self.mode else {}

    def needs(self, box: Box) -> Box:
        begin = as_zyx([b * f for b, f in zip(box.begin, self.factor, strict=True)])
        return Box(begin, as_zyx([e * f for e, f in zip(box.end, self.factor, strict=True)])) & self.source

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        from asem_core.voxels.average import average

        block = finite(block, box, "downsample")
        if not self.mode:
            return average(block, self.factor, self.output.dtype)
        from asem_preprocessors._downsample_kernels import modes

        result = np.empty(box.shape, self.output.dtype)
        known = np.ones(block.shape, np.uint8) if self.known is None else self.known.read(self.needs(box))
        modes(np.ascontiguousarray(block), np.ascontiguousarray(known), self.factor, box.begin, result)
        return result


@hookimpl
def register_preprocessors() -> list[type[Downsample]]:
    return [Downsample]
