"""The `[train]` table of a recipe: which regions, for how long, and with which numbers.

The defaults are those of Gallusser et al. 2022, "Training", except where a docstring says otherwise; what a table without
`iterations` leaves out is chosen by a plan instead (`asem_core.stages.planned`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from asem_core.errors import RecipeError
from asem_core.training.augment import Augment
from asem_core.volume import LARGEST_EDGE, Box, Zyx

Place = str | Mapping[str, Any]
"""A volume: a path such as "cell.zarr/raw", or a table that names a source, `{ use = "tiff-stack", path = ... }`."""


@attrs.frozen
class RegionOptions:
    """An annotated part of a cell.

    Attributes
    ----------
    raw, labels, mask, exclusion
        Volumes (see `Place`). `raw` may be a cell ("cell.zarr"): its prepared image is meant, and its mask, if it has one and
        none is given. `mask` is nonzero where the labels can be trusted, `exclusion` where nothing is scored;
        without `exclusion` the model's own rule makes it. For a network of several classes, `labels` is a table with a volume for
        each class; one that is left out is unknown in this region.
    strokes
        A layer of strokes (`seeds/<name>`) over the labels: what was painted counts, as it was painted. `box` is then in voxels of the
        strokes. Such labels, and `labels` that are strokes themselves, are neither cleaned nor thickened.
    values
        Instead, for labels whose values are classes: a table with the values of each class, `{ mitochondria = [3, 4, 5] }`.
    ignore, background
        Label values that mean "not annotated", and those that are background besides 0, in labels from elsewhere; by default
        those of known conventions (see `asem_core.voxels.known`). A layer that was annotated or imported here knows them.
    done
        Preprocessing that the image has had already; by default what its attributes or its name say.
    resample_labels
        Take labels of smaller voxels than the image's by the most frequent value in each of the image's.
    box
        The part of the labels to use, as "z0:z1,y0:y1,x0:x1" in voxels of the labels as they are stored; all of them by
        default.
    name
        For messages and reports; "region 1", "region 2", ... by default.
    """

    raw: Place
    labels: Place
    strokes: str | None = None
    mask: Place | None = None
    exclusion: Place | None = None
    values: Mapping[str, tuple[int, ...]] | None = None
    ignore: tuple[int, ...] | None = None
    background: tuple[int, ...] | None = None
    done: tuple[str, ...] | None = None
    resample_labels: bool = False
    box: str | None = None
    name: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.box is not None:
            Box.parse(self.box)
        for name, values in (self.values or {}).items():
            if not values or min(values) < 1:
                raise RecipeError(f"values: {name} = {list(values)}; give label values from 1 on, as in [3, 4, 5].")


@attrs.frozen
class OptimizerOptions:
    """Adam, and how its step size changes.

    Attributes
    ----------
    schedule
        "constant" as published, or "cosine": down to a hundredth at the last iteration.
    warmup
        Iterations over which the step size grows from nothing.
    clip_norm
        Longest gradient; 0 = never clipped.
    """

    learning_rate: float = 3e-5
    weight_decay: float = 3e-5
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    clip_norm: float = 0.0

    def __attrs_post_init__(self) -> None:
        if not 0 < self.learning_rate <= 1:
            raise RecipeError(
                f"train: learning_rate is {self.learning_rate:g}; it lies above 0 and is at most 1 (usual: 1e-5 to 1e-2)."
            )
        for name in ("weight_decay", "warmup", "clip_norm"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise RecipeError(f"train: {name} is {getattr(self, name)}; it must not be negative.")


@attrs.frozen
class LossOptions:
    """Weighted cross-entropy.

    Attributes
    ----------
    balance
        Weigh the two classes of a block inversely to their frequency in it; False weighs all voxels alike.
    least_frequency
        Frequencies are clipped to [this, 1 - this] first.
    ignore_exclusion
        Also leave the exclusion zone out of the loss; the published method does not.
    focus
        A voxel whose own class has the probability p counts (1 - p)^focus as much (Lin et al. 2017, focal loss): what is
        learnt already leaves room for rare objects among things that look like them. 0, as published: all count alike.
    """

    balance: bool = True
    least_frequency: float = 0.01
    ignore_exclusion: bool = False
    focus: float = 0.0


@attrs.frozen
class TrainOptions:
    """A training run.

    Attributes
    ----------
    regions, validation
        Where to learn, and where to test; they must not overlap.
    downsample
        Factor to average by first (zyx), of images and, by their most frequent value, of labels: the network
        then works at larger voxels, which is cheaper and sees farther. All else in the recipe but the boxes of regions
        is in these larger voxels. `asem predict --resample` does the same to an image.
    block
        Shape of the network's result for one block, zyx; raw is read around it as the network needs.
    batch, accumulate
        Blocks a step and process; steps whose gradients are added up before the weights change.
    start_from
        Weights to begin with: a run, a file (relative to the recipe) or a name of the registry; None: random ones, or those of `--from`.
    iterations, seed
        Changes of the weights; the number from which everything random follows.
    checkpoint_every, keep_last
        Iterations between validations, each with a checkpoint; how many to keep besides the best and the chosen ones
        (0 = all).
    validation_blocks
        At most so many blocks of `block` voxels are validated, evenly spread; 0 = all.
    fit_window
        Iterations over which the validation loss must be stable (the fit regime).
    choose
        How `predict_from` is chosen: "fit" = the middle of the fit regime, "best" = highest F1, "last"; "auto" = "fit",
        and "best" when fine-tuning.
    choose_threshold
        Note in the chosen weights, as their model's `threshold`, the probability with the highest F1 on the validation
        regions instead of the model's own. Of a model that merges fragments, the `merge_below` of the lowest variation of information
        there, too, if they hold ten objects with ids.
    keep_threshold
        Classes of a network of several whose threshold is not chosen.
    choose_mirrors
        Note in the chosen weights that prediction should average over mirror images, where the last checkpoint gains
        enough by it on the validation regions; what `asem predict` then does unless told otherwise.
    missing_context
        "refuse" regions so close to the border of the image that the network looks beyond it, or "reflect" the image.
    prepare_labels
        Apply the model's clean-up and dilation to the labels of training regions.
    initialise
        Random weights at the start: "torch" is its default (and the paper's), "he" (He et al. 2015) learns faster.
    normalise
        Batch normalisation after every convolution while training; it is folded into the saved weights, so that these are
        of the same network as without. Not published; small networks learn far faster with it.
    precision
        "bfloat16" multiplies in half precision; "auto" does so where the hardware is faster for it.
    compile
        Let torch compile the network: pays on GPUs for runs of hours.
    readers
        Threads that read blocks ahead; 0 reads when needed.
    """

    regions: tuple[RegionOptions, ...]
    validation: tuple[RegionOptions, ...] = ()
    downsample: Zyx = (1, 1, 1)
    block: Zyx = (110, 110, 110)
    batch: int = 1
    accumulate: int = 1
    start_from: str | None = None
    iterations: int = 100_000
    seed: int = 0
    checkpoint_every: int = 1000
    keep_last: int = 0
    validation_blocks: int = 0
    fit_window: int = 20_000
    choose: Literal["auto", "fit", "best", "last"] = "auto"
    choose_threshold: bool = False
    keep_threshold: tuple[str, ...] = ()
    choose_mirrors: bool = False
    missing_context: Literal["refuse", "reflect"] = "refuse"
    prepare_labels: bool = True
    initialise: Literal["torch", "he"] = "torch"
    normalise: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    readers: int = 2
    augment: Augment = attrs.field(factory=Augment)
    optimizer: OptimizerOptions = attrs.field(factory=OptimizerOptions)
    loss: LossOptions = attrs.field(factory=LossOptions)

    def __attrs_post_init__(self) -> None:
        for name in ("batch", "accumulate", "iterations", "checkpoint_every", "fit_window"):
            if getattr(self, name) < 1:
                raise RecipeError(f"train: {name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("keep_last", "validation_blocks", "readers", "seed"):
            if getattr(self, name) < 0:
                raise RecipeError(f"train: {name} is {getattr(self, name)}; it must not be negative.")
        if min(self.downsample) < 1:
            raise RecipeError(f"train: downsample is {list(self.downsample)}; each factor must be at least 1.")
        if not self.regions:
            raise RecipeError("train: there is no region to train on: add [[train.regions]] with raw and labels.")
        if self.choose == "best" and not self.validation:
            raise RecipeError('train: choose = "best" needs [[train.validation]].')
        for name in ("choose_threshold", "choose_mirrors"):
            if getattr(self, name) and not self.validation:
                raise RecipeError(f"train: {name} = true needs [[train.validation]].")
        if not all(1 <= edge <= LARGEST_EDGE for edge in self.block):
            raise RecipeError(f"train: block is {list(self.block)}; each edge has 1 to {LARGEST_EDGE} voxels.")
        if not 0 < self.loss.least_frequency <= 0.5:
            raise RecipeError(f"train: least_frequency is {self.loss.least_frequency}; it lies between 0 and 0.5.")
        if not self.loss.focus >= 0:
            raise RecipeError(f"train: focus is {self.loss.focus}; it must not be negative.")


def is_open(train: Mapping[str, Any], where: str) -> bool:
    """Tell whether a `[train]` table leaves its length to a plan.

    Raises
    ------
    RecipeError
        `plan` is something else than "data" or "published", or has no meaning beside `iterations`.
    """
    chosen = train.get("plan")
    if chosen not in (None, "data", "published"):
        raise RecipeError(
            f'{where}: plan is "data" (settings from the labels) or "published" (the paper\'s), not {chosen!r}.'
        )
    if "iterations" in train and (chosen == "data" or "minutes" in train):
        raise RecipeError(f"{where}: iterations says how long to train; leave {'plan' if chosen else 'minutes'} out.")
    if chosen == "published" and "minutes" in train:
        raise RecipeError(f"{where}: the published plan has a fixed length; leave minutes out.")
    return "iterations" not in train and chosen != "published"


@attrs.frozen
class OpenOptions(TrainOptions):
    """A `[train]` table that leaves its length to a plan: what it says, and how it is to be planned."""

    plan: Literal["data"] | None = None
    minutes: float = 10.0


def options_alone(train: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what says how to plan: the rest are options of a training."""
    return {key: value for key, value in train.items() if key not in ("plan", "minutes")}
