"""Proofread a segmentation: edits of its objects in a small log, replayed on the graph of a whole cell, applied on demand.

The layer's voxels stay as they were made. Merging, deleting and renaming work on any segmentation that was made here; cutting an
object works on those made of fragments (`split` or `cells` of the model), along the borders of its fragments.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import attrs
import numpy as np

from asem_core.blocks import Run, Work
from asem_core.catalog import Catalog
from asem_core.cell.edits import read_edits, write_edits
from asem_core.cell.place import lock, unlock
from asem_core.cell.provenance import is_unchanged, made_by, options_to_build, require_labels
from asem_core.cell.record import Record, record_at
from asem_core.cell.store import Output, create_volume, fill_volume, open_volume
from asem_core.errors import BadInput, quoted
from asem_core.interfaces import Model
from asem_core.recipe import build
from asem_core.stages.instances import Fragments
from asem_core.stages.segment import DEFAULT_BLOCK
from asem_core.volume import Box, Labels, Volume, Zyx, as_zyx
from asem_core.voxels.components import value_range
from asem_core.voxels.cuts import other_side

LARGEST_ID = 2**28
"""Of a segmentation whose ids are renamed by a table."""

Kind = Literal["merge", "split", "delete", "relabel"]


@attrs.frozen
class Edit:
    """One edit; ids are those at the time, after the edits before.

    Attributes
    ----------
    ids
        merge: these objects become one, with the first id. delete: these are removed. split, relabel: the one that is changed.
    new
        relabel: the id that it gets. split: the id of the part with the points `other`; given when the edit is made.
    one, other
        split: voxels (z, y, x) of the layer on either side of the cut.
    """

    kind: Kind
    ids: tuple[int, ...]
    new: int | None = None
    one: tuple[Zyx, ...] = ()
    other: tuple[Zyx, ...] = ()

    @classmethod
    def parse(cls, noted: Mapping[str, Any]) -> Edit:
        one, other = (tuple(as_zyx(p) for p in noted.get(side, ())) for side in ("one", "other"))
        return cls(noted["kind"], tuple(noted["ids"]), noted.get("new"), one, other)

    def json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"kind": self.kind, "ids": list(self.ids), "new": self.new}
        told |= {side: [list(p) for p in getattr(self, side)] for side in ("one", "other")}
        return {key: value for key, value in told.items() if value not in (None, [])}

    def __str__(self) -> str:
        ids = ", ".join(map(str, self.ids))
        if self.kind == "merge":
            return f"merge {ids} into {self.ids[0]}"
        return f"{self.kind} {ids}" + (
            f" into {ids} and {self.new}" if self.kind == "split" else f" to {self.new}" if self.new else ""
        )


class Units(Protocol):
    """What objects are made of: fragments, or the objects of the layer as they are."""

    @property
    def num(self) -> int: ...
    @property
    def table(self) -> np.ndarray: ...
    def at(self, points: Sequence[Zyx]) -> np.ndarray: ...
    def read(self, box: Box, table: np.ndarray) -> np.ndarray: ...
    @property
    def edges(self) -> np.ndarray: ...


@attrs.frozen(eq=False)
class Proofread:
    """A segmentation with its edits replayed.

    Attributes
    ----------
    layer : the segmentation as it was made
    edits : first to last
    table : int64 (units + 1,): the object of each fragment, or of each object as it was made
    """

    layer: Labels
    edits: Sequence[Edit]
    units: Units
    table: np.ndarray

    def read(self, box: Box) -> np.ndarray:
        """Read the objects of a box as they are after the edits."""
        return self.units.read(box, self.table)

    @property
    def num_objects(self) -> int:
        return int(np.count_nonzero(np.unique(self.table)))


def open_proofread(
    layer: str | Path, catalog: Catalog, run: Run, upto: int | None = None, *, before: Proofread | None = None
) -> Proofread:
    """Open a segmentation and replay its edits (the first `upto` of them).

    Parameters
    ----------
    before : the same segmentation, opened earlier: its fragments are used again

    Raises
    ------
    BadInput
        It is no segmentation of ours, or an edit cuts and the map that its fragments are made of has changed since.
    """
    labels: Labels = open_volume(layer, kind=Labels)
    require_labels(labels, "objects are proofread")
    if not Record.of(labels).id:
        raise BadInput(
            f"{layer} was not made here, so it cannot be proofread: import it into a cell first: asem import"
        )
    edits = [Edit.parse(noted) for noted in read_edits(labels.attributes)][:upto]
    units = _units_of(labels, catalog, run, before, needed=any(edit.kind == "split" for edit in edits))
    return Proofread(labels, edits, units, _replayed(edits, units))


def edited(table: np.ndarray, edit: Edit, units: Units) -> np.ndarray:
    """Apply one edit to a table from units to objects.

    Raises
    ------
    BadInput
        An object is not there, or the id is taken; the points of a cut lie elsewhere, or on both sides in one fragment.
    """
    for one in edit.ids:
        if one < 1 or not (table == one).any():
            raise BadInput(f"There is no object {one} now: ids are those after the earlier edits (asem proofread log).")
    if edit.kind == "merge":
        if len(set(edit.ids)) < 2:
            raise BadInput("To merge, give two or more ids.")
        return np.where(np.isin(table, edit.ids[1:]), edit.ids[0], table)
    if edit.kind == "delete":
        return np.where(np.isin(table, edit.ids), 0, table)
    (own,) = edit.ids
    if edit.new is None or edit.new < 1 or edit.new > LARGEST_ID or (table == edit.new).any():
        raise BadInput(
            f"An object cannot become {edit.new}: "
            + ("that is another; merge them." if edit.new else "ids begin at 1.")
        )
    if edit.kind == "relabel":
        return np.where(table == own, edit.new, table)
    sides = [units.at(points) for points in (edit.one, edit.other)]
    for points, found in zip((edit.one, edit.other), sides, strict=True):
        outside = [list(p) for p, unit in zip(points, found, strict=True) if unit < 1 or table[unit] != own]
        if outside or not points:
            where = f"{outside[0]} is not in it" if outside else "one side has none"
            raise BadInput(f"To split object {own}, give voxels of it on both sides of the cut: {where}.")
    if np.isin(sides[0], sides[1]).any():
        raise BadInput(
            f"Both sides of the cut of object {own} lie in one fragment, which is never cut. Segment with smaller fragments, or put the "
            "points farther from the cut."
        )
    members = np.flatnonzero(table == own)
    far = other_side(members - 1, units.edges, sides[0] - 1, sides[1] - 1) + 1
    result = table.copy()
    result[far] = edit.new
    return result


def edit_layer(
    layer: str | Path, edit: Edit, catalog: Catalog, run: Run, *, before: Proofread | None = None
) -> Proofread:
    """Check an edit against a segmentation, and add it to its log, unless it is the last one there; returns what is there then.

    Parameters
    ----------
    before : see `open_proofread`

    Raises
    ------
    BadInput
        See `edited` and `open_proofread`; or a cut of objects that are not made of fragments.
    OutputBusy
        Another process writes to the layer.
    """
    taken = lock(Path(layer))
    try:
        now = open_proofread(layer, catalog, run, before=before)
        units = now.units
        last = now.edits[-1] if now.edits else None
        if last is not None and edit == (attrs.evolve(last, new=None) if edit.kind == "split" else last):
            return now
        if edit.kind == "split":
            units = _units_of(now.layer, catalog, run, now, needed=True)
            now = attrs.evolve(now, units=units, table=_replayed(now.edits, units))
            # An id that no edit before has used, so that the log reads the same whatever is undone.
            used = [n for e in now.edits for n in (*e.ids, e.new or 0)]
            edit = attrs.evolve(edit, new=int(max(now.table.max(), units.table.max(), *used, 0)) + 1)
        table = edited(now.table, edit, units)
        write_edits(layer, [e.json() for e in (*now.edits, edit)])
        return attrs.evolve(now, edits=(*now.edits, edit), table=table)
    finally:
        unlock(Path(layer), taken)


def _replayed(edits: Sequence[Edit], units: Units) -> np.ndarray:
    return functools.reduce(lambda table, edit: edited(table, edit, units), edits, units.table)


def strokes_of(seeds: str | Path, labels: Volume) -> tuple[tuple[Zyx, ...], tuple[Zyx, ...]]:
    """Read the voxels of strokes over a segmentation: those painted as object (1), and as background (2).

    Raises
    ------
    BadInput
        There is no stroke of one of both.
    ShapeMismatch, VoxelSizeMismatch
        They lie on another grid.
    """
    painted: Volume = open_volume(seeds)
    place = labels.box_of(painted)
    found: dict[int, list[Zyx]] = {1: [], 2: []}
    for block in painted.box.blocks(DEFAULT_BLOCK):
        values = painted.read(block)
        for value, points in found.items():
            where = np.argwhere(values == value) + block.begin + place.begin
            points += [as_zyx(p) for p in where.tolist()]
    if not all(found.values()):
        raise BadInput(
            f"{seeds} holds strokes of one kind only: paint one side of the cut as object (1), the other as background (2)."
        )
    return tuple(found[1]), tuple(found[2])


def undo_edits(layer: str | Path, num: int = 1) -> list[Edit]:
    """Take the last edits of a segmentation back; returns them, the last first.

    Raises
    ------
    BadInput
        There are fewer.
    OutputBusy
    """
    taken = lock(Path(layer))
    try:
        noted = read_edits(open_volume(layer).attributes)
        if num > len(noted) or num < 1:
            raise BadInput(f"{layer} has {len(noted)} edits, so {num} cannot be undone.")
        write_edits(layer, noted[: len(noted) - num])
        return [Edit.parse(edit) for edit in reversed(noted[len(noted) - num :])]
    finally:
        unlock(Path(layer), taken)


def proofread_layer(layer: str | Path) -> Path:
    """Say where the edited objects of a segmentation are written: `segmentation_proofread` beside it."""
    return Path(layer).with_name(f"{Path(layer).name}_proofread")


def apply_edits(
    layer: str | Path, catalog: Catalog, run: Run, output: str | Path | None = None, *, overwrite: bool = False
) -> Labels:
    """Write a segmentation as its edits leave it, block by block, into `output`; what earlier edits made there is replaced.

    Raises
    ------
    BadInput
        There are no edits.
    OutputExists, OutputBusy, NoSpace
    """
    now = open_proofread(layer, catalog, run)
    if not now.edits:
        raise BadInput(f"{layer} has no edits: use it as it is.")
    target = Path(output) if output is not None else proofread_layer(layer)
    record = made_by("proofread", inputs=[now.layer], edits=[edit.json() for edit in now.edits])
    block = run.block or DEFAULT_BLOCK
    dtype = np.dtype(np.uint32)
    about = Record("labels", num_objects=now.num_objects, findings={"edits": _counted(now.edits)})
    own = target.exists() and _is_of(record_at(target), now.layer)
    out = create_volume(
        target,
        attrs.evolve(now.layer.spec, dtype=dtype),
        block=block,
        made_by=record,
        overwrite=overwrite or own,
        about=about,
    )
    fill_volume(out, _Write(now, out), block, run, name=f"proofread-{target.name}")
    return open_volume(target, kind=Labels)


def describe_edits(segmentation: Labels) -> str | None:
    """Say how a segmentation was proofread, for reports; None where it was not."""
    for made in Record.of(segmentation).made.chain():
        if made.stage == "proofread":
            return f"Proofread: {_counted([Edit.parse(e) for e in made.noted['edits']])}."
    return None


def warn_of_edits(segmentation: Labels) -> str | None:
    """Say that a segmentation has edits which its voxels do not show."""
    num = len(read_edits(segmentation.attributes))
    if not num:
        return None
    return (
        f"{segmentation.path} has {num} edits that are not in its voxels: asem proofread apply {quoted(segmentation.path)} writes them to "
        f"{proofread_layer(segmentation.path)}; use that layer."
    )


def _counted(edits: Sequence[Edit]) -> str:
    counts = {kind: sum(edit.kind == kind for edit in edits) for kind in ("merge", "split", "delete", "relabel")}
    return ", ".join(f"{n} x {kind}" for kind, n in counts.items() if n)


def _is_of(before: Record, layer: Labels) -> bool:
    """Tell whether a layer was made by edits of this one."""
    return before.made.stage == "proofread" and before.made.inputs[0].id == Record.of(layer).id


@attrs.frozen
class _Write:
    now: Proofread
    output: Output

    def __call__(self) -> Work:
        return self.write

    def write(self, box: Box) -> None:
        self.output.data[box.slices] = self.now.read(box).astype(np.uint32)  # type: ignore[index]


# --- what objects are made of ---------------------------------------------------------------------------------------


def _units_of(labels: Labels, catalog: Catalog, run: Run, before: Proofread | None, *, needed: bool) -> Units:
    """Find the fragments of a segmentation, if cuts need them; its objects as they are, if not; those of `before`, if they will do."""
    same = before is not None and Record.of(before.layer).revision == Record.of(labels).revision
    if before is not None and same and (not needed or isinstance(before.units, _OfFragments)):
        return before.units
    if not needed:
        return _Objects.of(labels)
    record = Record.of(labels)
    noted = record.made.noted.get("model")
    if record.made.stage == "segment" and isinstance(noted, Mapping):
        where = f"{labels.path} @ model ({noted['name']})"
        model: Model = build(catalog.get("model", noted["name"]), options_to_build(noted), where)
        read = record.made.inputs[0]
        beside = Path(labels.path).with_name("probability")
        source = read.address if "://" in read.address or Path(read.address).exists() else str(beside)
        probability: Volume = open_volume(source)
        if not is_unchanged(read, probability):
            raise BadInput(
                f"{labels.path} was made of {source}, which has changed since: its objects cannot be cut any more. Segment anew."
            )
        fitted = model.segment(probability, run)
        if isinstance(fitted, Fragments):
            return _OfFragments(fitted)
    raise BadInput(
        f"The objects of {labels.path} are not made of fragments, so they cannot be cut. Segment with fragments, for example asem segment "
        "MAP -s split=true -s split_below=1 -o LAYER, which keeps connected objects whole until they are cut."
    )


@attrs.frozen(eq=False)
class _Objects:
    """Objects as they are, each a unit."""

    labels: Labels
    num: int

    @classmethod
    def of(cls, labels: Labels) -> _Objects:
        known = Record.of(labels).num_objects
        largest = known if known is not None else value_range(labels, Run(progress=False))[1]
        if largest > LARGEST_ID:
            raise BadInput(f"{labels.path} has ids up to {largest}: only ids up to {LARGEST_ID} can be proofread.")
        return cls(labels, int(largest))

    @property
    def table(self) -> np.ndarray:
        return np.arange(self.num + 1)

    @property
    def edges(self) -> np.ndarray:
        return np.zeros((0, 4), np.int64)

    def at(self, points: Sequence[Zyx]) -> np.ndarray:
        return np.zeros(len(points), np.int64)

    def read(self, box: Box, table: np.ndarray) -> np.ndarray:
        result: np.ndarray = table[self.labels.read(box)]
        return result


@attrs.frozen(eq=False)
class _OfFragments:
    """Objects of fragments, each fragment a unit."""

    fitted: Fragments

    @property
    def num(self) -> int:
        return len(self.fitted.regions)

    @property
    def table(self) -> np.ndarray:
        return self.fitted.table.astype(np.int64)

    @property
    def edges(self) -> np.ndarray:
        return self.fitted.regions.edges

    def at(self, points: Sequence[Zyx]) -> np.ndarray:
        numbers = np.arange(self.num + 1)
        whole = self.fitted.regions.box
        boxes = [Box(p, as_zyx([n + 1 for n in p])) for p in points]
        return np.array([int(self.read(b, numbers)[0, 0, 0]) if whole.contains(b) else 0 for b in boxes], np.int64)

    def read(self, box: Box, table: np.ndarray) -> np.ndarray:
        return self.fitted.regions.read(box, table)
