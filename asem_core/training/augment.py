"""Augmentation: deform and shade a training block, image and labels alike.

Mirrors, transposes, rotation, zoom, elastic jitter and plane slips are drawn as one `Warp`: a map from the block's voxels to
places in the source volume. The image is sampled once through it (trilinear) and the labels once (nearest), so nothing
is interpolated twice and both stay aligned. The map is a coarse lattice, interpolated cubically axis by axis: on a GPU by three
small matrix products and torch's own sampling, on a CPU by one compiled loop (`asem_core.training._warp_kernel`).

Order and default numbers: Gallusser et al. 2022, "Training": mirror + transpose; elastic + rotation + shifted planes;
mirror + transpose; intensity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import attrs
import numpy as np

from asem_core.errors import RecipeError
from asem_core.volume import Box, Zyx, ZyxNm, as_zyx
from asem_core.voxels.slabs import in_slabs

if TYPE_CHECKING:
    import torch


@attrs.frozen
class Augment:
    """How strongly training blocks are varied. Lengths are in voxels (zyx); intensities are fractions of full range.

    Attributes
    ----------
    mirror
        Axes that may be mirrored, for example "zyx", "yx" or "".
    transpose
        Axes that may be exchanged: "auto" takes those whose voxel size equals that of y, and along which the block is as long, so that
        it covers the place that was drawn for it; "" none.
    elastic_spacing_vx, elastic_jitter_vx
        Distance of the control points, and the standard deviation of their displacement along each axis (0: none).
    rotation_deg
        Range of the rotation about z.
    zoom
        Range of the factor by which things appear larger along all axes; every ratio in it is as likely.
    shift_probability, slip_probability, misalign_vx
        Per plane: from here on all planes are shifted in y and x; only this plane is; by at most so much.
    intensity_scale, intensity_shift
        Ranges of the contrast factor (about the block's mean) and of the offset.
    gamma
        Range of the exponent applied to grey values in 0-1.
    noise, blur_vx
        Largest standard deviation of Gaussian noise, and of Gaussian blur in y and x; drawn from 0 to this.
    missing_probability
        Per plane: the image is black there; its labels stay.
    """

    mirror: str = "zyx"
    transpose: str = "auto"
    elastic_spacing_vx: tuple[int, int, int] = (32, 32, 32)
    elastic_jitter_vx: tuple[float, float, float] = (2.0, 2.0, 2.0)
    rotation_deg: tuple[float, float] = (0.0, 90.0)
    zoom: tuple[float, float] = (1.0, 1.0)
    shift_probability: float = 0.05
    slip_probability: float = 0.0
    misalign_vx: int = 2
    intensity_scale: tuple[float, float] = (0.9, 1.1)
    intensity_shift: tuple[float, float] = (-0.1, 0.1)
    gamma: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    blur_vx: float = 0.0
    missing_probability: float = 0.0

    def __attrs_post_init__(self) -> None:
        for name, value in (("mirror", self.mirror), ("transpose", self.transpose)):
            if not set(value) <= set("zyx") and not (name, value) == ("transpose", "auto"):
                raise RecipeError(f"augment: {name} is '{value}'; write some of the letters z, y, x, for example 'yx'.")
        for name in ("rotation_deg", "zoom", "intensity_scale", "intensity_shift", "gamma"):
            low, high = getattr(self, name)
            if low > high:
                raise RecipeError(f"augment: {name} is [{low}, {high}]; write the smaller number first.")
        for name in ("shift_probability", "slip_probability", "missing_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"augment: {name} is {getattr(self, name)}; a probability must be from 0 to 1.")
        if min(self.elastic_spacing_vx) < 1 or min(self.elastic_jitter_vx) < 0:
            raise RecipeError("augment: elastic_spacing_vx must be at least 1 and elastic_jitter_vx at least 0.")
        for name, what in (("gamma", "an exponent"), ("zoom", "a factor")):
            if getattr(self, name)[0] <= 0:
                raise RecipeError(f"augment: {name} is {list(getattr(self, name))}; {what} must be above 0.")

    @classmethod
    def none(cls) -> Augment:
        """Leave blocks as they are."""
        return cls("", "", (32, 32, 32), (0, 0, 0), (0, 0), (1, 1), 0, 0, 0, (1, 1), (0, 0))

    def draw_warp(self, box: Box, voxel_size_nm: ZyxNm, rng: np.random.Generator) -> Warp:
        """Draw a deformation of `box` (voxels of the image; the network's input)."""
        axes = [i for i, name in enumerate("zyx") if name in self.transpose]
        if self.transpose == "auto":
            axes = [
                i
                for i in range(3)
                if np.isclose(voxel_size_nm[i], voxel_size_nm[1], rtol=1e-3) and box.shape[i] == box.shape[1]
            ]
        before, after = (_signed_permutation(axes, self.mirror, rng) for _ in range(2))
        # `after` says where each axis of the block comes from; the warped block has these lengths before it is turned.
        shape = np.abs(after) @ box.shape
        spacing = np.array(self.elastic_spacing_vx)
        size = (shape - 1) // spacing + 4
        lattice = (
            np.stack(np.meshgrid(*[np.arange(n) - 1.0 for n in size], indexing="ij")) * spacing[:, None, None, None]
        )
        lattice -= ((shape - 1) / 2)[:, None, None, None]
        angle = np.deg2rad(rng.uniform(*self.rotation_deg))
        rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        scale = np.array(voxel_size_nm)
        lattice = np.einsum("ij,j...->i...", rotation * scale / scale[:, None], lattice)
        if self.zoom != (1, 1):  # a number is drawn only where it is used, so that the other draws stay as they were
            lattice /= np.exp(rng.uniform(*np.log(self.zoom)))
        lattice += rng.normal(size=lattice.shape) * np.array(self.elastic_jitter_vx)[:, None, None, None]
        planes = np.zeros((3, shape[0]))
        planes[1:] = self._draw_misalignment(int(shape[0]), rng)
        centre = (np.array(box.begin) + box.end - 1) / 2
        lattice = np.einsum("ij,j...->i...", before, lattice) + centre[:, None, None, None]
        return Warp(box, as_zyx(spacing.tolist()), lattice, before @ planes, after)

    def _draw_misalignment(self, num_planes: int, rng: np.random.Generator) -> np.ndarray:
        """Draw each plane's displacement in (y, x); float, shape (2, num_planes)."""
        amount = rng.integers(-self.misalign_vx, self.misalign_vx + 1, (2, 2, num_planes)).astype(float)
        begins_shift = rng.random(num_planes) < self.shift_probability
        slips = rng.random(num_planes) < self.slip_probability
        shifted: np.ndarray = np.cumsum(amount[0] * begins_shift, axis=1)
        shifted += amount[1] * slips
        return shifted

    def draw_shade(self, num_planes: int, rng: np.random.Generator) -> Shade:
        """Draw a change of grey values for a block of `num_planes` planes."""
        return Shade(
            scale=rng.uniform(*self.intensity_scale),
            shift=rng.uniform(*self.intensity_shift),
            gamma=rng.uniform(*self.gamma),
            noise=rng.uniform(0, self.noise),
            blur_vx=rng.uniform(0, self.blur_vx),
            missing=rng.random(num_planes) < self.missing_probability,
            seed=int(rng.integers(2**62)),
        )


UNCHANGED = Augment(
    mirror="",
    transpose="",
    elastic_jitter_vx=(0.0, 0.0, 0.0),
    rotation_deg=(0.0, 0.0),
    shift_probability=0.0,
    intensity_scale=(1.0, 1.0),
    intensity_shift=(0.0, 0.0),
)
"""Blocks as they are in the volume."""


@attrs.frozen(eq=False)
class Warp:
    """A drawn deformation: for each voxel of `box`, the place in the volume that it shows."""

    box: Box
    spacing: Zyx
    lattice: np.ndarray  # (3, gz, gy, gx): place in the volume, in voxels, of each control point
    planes: np.ndarray  # (3, num_planes): displacement of each plane of the block before it is turned
    turn: np.ndarray  # (3, 3) signed permutation: block = turn of the warped block

    def needs(self, box: Box) -> Box:
        """Say which voxels of the volume are needed to sample `box`, a part of the warp's own box."""
        # The map is smooth on the scale of the lattice, so every 8th voxel tells its extent to well within the margin of 1.
        ranges = [np.unique(np.r_[b : e - 1 : 8, e - 1]) for b, e in zip(*self._before_turn(box), strict=True)]
        weights = [
            _cubic_weights(r, s, n) for r, s, n in zip(ranges, self.spacing, self.lattice.shape[1:], strict=True)
        ]
        places = np.einsum("zi,yj,xk,cijk->czyx", *weights, self.lattice, optimize=True)
        begin, end = self._before_turn(box)
        planes = self.planes[:, begin[0] : end[0]]
        low = places.min(axis=(1, 2, 3)) + planes.min(axis=1)
        high = places.max(axis=(1, 2, 3)) + planes.max(axis=1)
        return Box(as_zyx((np.floor(low) - 1).astype(int).tolist()), as_zyx((np.ceil(high) + 2).astype(int).tolist()))

    def sample(
        self, source: torch.Tensor, source_box: Box, box: Box, mode: Literal["bilinear", "nearest"]
    ) -> torch.Tensor:
        """Sample `box` from `source`, the voxels of `source_box`.

        Parameters
        ----------
        source : (z, y, x), any number type, on any device
        source_box : where `source` lies in the volume; at least `needs(box)`
        box : a part of the warp's box
        mode : "bilinear" (torch's word; trilinear here) for images, "nearest" for labels

        Returns
        -------
        float32, `box.shape`, on the device of `source`.
        """
        begin, end = self._before_turn(box)
        lattice = self.lattice - np.array(source_box.begin, dtype=float)[:, None, None, None]
        rows = [np.arange(b, e) for b, e in zip(begin, end, strict=True)]
        planes = self.planes[:, begin[0] : end[0]]
        on_cpu = source.device.type == "cpu"
        sampled = (_sample_on_cpu if on_cpu else _sample_on_gpu)(source, lattice, rows, self.spacing, planes, mode)
        order = np.abs(self.turn).argmax(axis=0).tolist()
        flips = [i for i in range(3) if self.turn[:, i].sum() < 0]
        return sampled.permute(order).flip(flips) if flips else sampled.permute(order)

    def _before_turn(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Locate `box` in the block before it is turned, counted from that block's first voxel."""
        own = np.array(self.box.shape)
        begin = np.array(box.begin) - self.box.begin
        end = np.array(box.end) - self.box.begin
        mirrored = self.turn.sum(axis=0) < 0
        begin, end = np.where(mirrored, own - end, begin), np.where(mirrored, own - begin, end)
        return np.abs(self.turn) @ begin, np.abs(self.turn) @ end


@attrs.frozen(eq=False)
class Shade:
    """A drawn change of grey values."""

    scale: float
    shift: float
    gamma: float
    noise: float
    blur_vx: float
    missing: np.ndarray  # bool, one a plane
    seed: int

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Change an image: float32 (z, y, x) in 0-1, and so the result."""
        import torch

        if self.blur_vx > 0.1:
            image = _blur_planes(image, self.blur_vx)
        if self.gamma != 1:
            image = image.clamp(0, 1) ** self.gamma
        if self.scale != 1 or self.shift != 0:
            image = image * self.scale + (image.mean() * (1 - self.scale) + self.shift)
        if self.noise > 0:
            generator = torch.Generator(image.device).manual_seed(self.seed)
            image = image + self.noise * torch.randn(image.shape, generator=generator, device=image.device)
        if self.missing.any():
            image[torch.from_numpy(np.flatnonzero(self.missing)).to(image.device)] = 0
        return image.clamp_(0, 1)


def _signed_permutation(axes: Sequence[int], mirror: str, rng: np.random.Generator) -> np.ndarray:
    """Draw an exchange of `axes` and a mirroring of those in `mirror`; an integer matrix (3, 3)."""
    order = np.arange(3)
    order[list(axes)] = rng.permutation(np.array(axes, dtype=int))
    signs = np.where([name in mirror and rng.random() < 0.5 for name in "zyx"], -1, 1)
    result: np.ndarray = np.eye(3, dtype=int)[order] * signs
    return result


def _sample_on_cpu(
    source: torch.Tensor, lattice: np.ndarray, rows: Sequence[np.ndarray], spacing: Zyx, planes: np.ndarray, mode: str
) -> torch.Tensor:
    import torch

    from asem_core.training._warp_kernel import sample_planes

    parts = [_cubic_parts(r, s) for r, s in zip(rows, spacing, strict=True)]
    bases, weights = tuple(base for base, _ in parts), tuple(w.astype(np.float32) for _, w in parts)
    warp = (lattice.astype(np.float32), bases, weights, planes.astype(np.float32), mode == "nearest")
    voxels = np.ascontiguousarray(source.numpy())  # else the kernel is compiled once more, for views
    result = np.empty([len(r) for r in rows], np.float32)

    def sample(begin: int, end: int) -> None:
        sample_planes(voxels, *warp, begin, result[begin:end])

    # Threads of our own: numba takes three times as long to compile a loop that is to be parallel.
    in_slabs(sample, len(result), threads=torch.get_num_threads())
    return torch.from_numpy(result)


def _sample_on_gpu(
    source: torch.Tensor, lattice: np.ndarray, rows: Sequence[np.ndarray], spacing: Zyx, planes: np.ndarray, mode: str
) -> torch.Tensor:
    import torch
    from torch.nn import functional

    # torch counts places from -1 to 1 over the source and orders them xyz.
    half = np.maximum(np.array(source.shape) - 1, 1) / 2
    places = _upload((lattice / half[:, None, None, None] - 1)[::-1], source.device)
    for axis in range(3):
        weights = _upload(_cubic_weights(rows[axis], spacing[axis], lattice.shape[axis + 1]), source.device)
        places = torch.tensordot(places, weights, dims=([1], [1]))  # consumes one axis, appends the new one: z, y, x
    if planes.any():
        moved = _upload((planes / half[:, None])[::-1], source.device)
        places += moved[:, :, None, None]
    sampled: torch.Tensor = functional.grid_sample(
        source[None, None].float(),
        places.permute(1, 2, 3, 0)[None],
        mode=mode,
        padding_mode="border",
        align_corners=True,
    )[0, 0]
    return sampled


def _upload(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    """Bring numbers to a device, as float32 before they travel: a Mac's GPU has no float64."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(numbers, np.float32)).to(device)


def _cubic_parts(rows: np.ndarray, spacing: int) -> tuple[np.ndarray, np.ndarray]:
    """Catmull-Rom interpolation (through the control points, exact for straight lines) of four control points a row.

    Returns the first of the four, int (rows,), and their weights, float (rows, 4).
    """
    t = rows / spacing + 1
    base = np.floor(t).astype(np.int64)
    f = t - base
    parts = (-f + 2 * f**2 - f**3, 2 - 5 * f**2 + 3 * f**3, f + 4 * f**2 - 3 * f**3, -(f**2) + f**3)
    return base - 1, np.stack(parts, axis=1) / 2


def _cubic_weights(rows: np.ndarray, spacing: int, size: int) -> np.ndarray:
    """Spread the weights of `_cubic_parts` over all control points: (rows, size)."""
    base, parts = _cubic_parts(rows, spacing)
    weights = np.zeros((len(rows), size))
    np.put_along_axis(weights, base[:, None] + np.arange(4), parts, axis=1)
    return weights


def _blur_planes(image: torch.Tensor, sigma_vx: float) -> torch.Tensor:
    """Blur in y and x by a Gaussian, the border voxel repeated outwards."""
    import torch
    from torch.nn import functional

    radius = min(int(np.ceil(3 * sigma_vx)), 12)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device) / sigma_vx) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    planes = functional.pad(image[:, None], (radius,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(planes, kernel), kernel.transpose(2, 3))[:, 0]
