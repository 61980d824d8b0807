"""The stream of training blocks: where they lie is drawn by the sampler, how they are varied by the augmentation.

Everything random follows from the seed and the number of the block in the stream, so a resumed run goes on with the
very blocks that an unbroken one would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_core.errors import PluginError
from asem_core.interfaces import Region, Sampler
from asem_core.training.augment import UNCHANGED, Augment, Shade, Warp
from asem_core.training.regions import IGNORE, input_box, labels_box
from asem_core.training.targets import UNKNOWN, Need, read_need
from asem_core.volume import Box, Zyx, full_range

if TYPE_CHECKING:
    import torch

VARIED_AGAIN = 20
"""So often a block is varied anew while nothing in it is annotated; then it stays as the sampler drew it."""


@attrs.frozen(eq=False)
class Drawn:
    """Labels as read, and what of them will be shown, both in voxels of the region's image."""

    values: np.ndarray  # uint8, or int32 of ids
    box: Box
    shown: Box


@attrs.frozen(eq=False)
class Cut:
    """The voxels of one training block, as read: to be warped and shaded on the device."""

    region: Region
    box: Box  # of the network's result, in voxels of the region's labels
    image: np.ndarray
    image_box: Box  # in voxels of the region's image
    labels: Mapping[Need, Drawn]
    warp: Warp
    shade: Shade

    @property
    def place(self) -> str:
        """Where the block lies, for messages."""
        return f"{self.box} of region '{self.region.name}' ({self.region.labels.path})"

    def to_tensors(self, device: torch.device) -> tuple[torch.Tensor, dict[Need, torch.Tensor]]:
        """Warp and shade the block on a device.

        Returns
        -------
        image : float32 (1, z, y, x) from -1 to 1, of the network's input shape
        labels : what the heads need, each int64 (z, y, x), of the network's output shape, ids by `Need.margin` larger
        """
        import torch

        white = full_range(self.image.dtype)
        image = torch.from_numpy(self.image).to(device)
        image = self.shade(self.warp.sample(image, self.image_box, self.warp.box, "bilinear").div_(white))
        labels = {
            need: self.warp.sample(torch.from_numpy(drawn.values).to(device), drawn.box, drawn.shown, "nearest")
            for need, drawn in self.labels.items()
        }
        return image.mul_(2).sub_(1)[None], {need: values.round().long() for need, values in labels.items()}


@attrs.frozen
class BlockStream:
    """Draws and reads training blocks, a few ahead in threads."""

    sampler: Sampler
    regions: Sequence[Region]
    shape: Zyx  # of the network's result
    context: Zyx
    augment: Augment
    seed: int
    rank: int = 0
    exclude: bool = False
    readers: int = 0
    needs: Sequence[Need] = (Need(),)

    def cuts(self, first: int) -> Iterator[Cut]:
        """Yield the blocks from number `first` on, for ever."""
        drawn = self.sampler.boxes(self.regions, self.shape, np.random.default_rng([self.seed, self.rank]))
        boxes = (self._checked(one) for one in drawn)
        numbered = islice(zip(count(), boxes), first, None)
        if self.readers == 0:
            for number, (index, box) in numbered:
                yield self.cut(number, self.regions[index], box)
        with ThreadPoolExecutor(self.readers, "asem-read") as pool:
            ahead: deque[Future[Cut]] = deque()
            try:
                for number, (index, box) in numbered:
                    ahead.append(pool.submit(self.cut, number, self.regions[index], box))
                    if len(ahead) > 2 * self.readers:
                        yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _checked(self, drawn: Any) -> tuple[int, Box]:
        """Check what the sampler gave: the index of a region, and a box of the right shape that meets its labels."""
        try:
            index, box = drawn
            right = box.shape == tuple(self.shape) and 0 <= index < len(self.regions)
            right = right and not (box & self.regions[index].labels.box).is_empty
        except (TypeError, ValueError, AttributeError):
            right = False
        if not right:
            raise PluginError(
                f"The sampler '{self.sampler.name}' gave {drawn!r} instead of the number of a region (of {len(self.regions)}) and "
                f"a box of {list(self.shape)} voxels that meets its labels. This is a fault of the plugin."
            )
        return index, box

    def cut(self, number: int, region: Region, box: Box) -> Cut:
        """Read block `number` of the stream, which lies at `box` of the region's labels.

        Turned or enlarged, a block of sparse labels may lose all that is annotated: then it is varied anew.
        """
        rng = np.random.default_rng([self.seed, self.rank, number])
        whole = input_box(region, box, self.context)
        for augment in (*[self.augment] * VARIED_AGAIN, UNCHANGED):
            warp = augment.draw_warp(whole, region.raw.voxel_size_nm, rng)
            labels = {need: self._labels(region, need, warp) for need in self.needs}
            if any(_holds_known(need, drawn, warp) for need, drawn in labels.items()):
                break
        shade = self.augment.draw_shade(whole.shape[0], rng)
        image_box = warp.needs(whole)
        image = region.raw.read(image_box, outside="reflect")
        return Cut(region, box, image, image_box, labels, warp, shade)

    def _labels(self, region: Region, need: Need, warp: Warp) -> Drawn:
        shown = warp.box.grow([-c for c in self.context]).grow(need.margin(self.context))
        place = warp.needs(shown)
        return Drawn(read_need(region, need, labels_box(region, place), exclude=self.exclude), place, shown)


def _holds_known(need: Need, drawn: Drawn, warp: Warp) -> bool:
    """Tell whether anything is annotated in what is shown of labels."""
    import torch

    unknown = UNKNOWN if need.ids else IGNORE
    if (drawn.values != unknown).all() or (drawn.values == unknown).all():
        return bool(drawn.values.flat[0] != unknown)
    shown = warp.sample(torch.from_numpy(drawn.values), drawn.box, drawn.shown, "nearest")
    return bool((shown != unknown).any())
