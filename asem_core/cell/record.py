"""The record of a layer: which layer it is, what it holds and what made it. Read and written through here only.

It lies in the attributes of the layer's group, under `asem`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import attrs

from asem_core.errors import BadInput
from asem_core.volume import Box, Volume, Zyx, ZyxNm, as_zyx, as_zyx_nm

SCHEMA = 2
"""Version of what a record looks like; another one is refused."""

KEY = "asem"
"""The attribute of a group that holds its record."""

Kind = Literal["image", "probability", "labels"]
"""What the voxels of a layer mean."""


@attrs.frozen
class Input:
    """A volume that something was made of, as it was when it was read."""

    address: str
    shape: Zyx
    voxel_size_nm: ZyxNm
    origin_nm: ZyxNm
    made: Made
    id: str
    revision: str
    fingerprint: str | None

    @property
    def identity(self) -> Any:
        """What tells it from another volume, wherever they are."""
        return self.id, self.revision, self.fingerprint, self.shape, self.origin_nm, self.voxel_size_nm

    @classmethod
    def parse(cls, noted: Mapping[str, Any]) -> Self:
        return cls(
            noted["path"],
            as_zyx(noted["shape"]),
            as_zyx_nm(noted["voxel_size_nm"]),
            as_zyx_nm(noted["origin_nm"], "origin"),
            Made(noted.get("made_by", {})),
            noted.get("id", ""),
            noted.get("revision", ""),
            noted.get("fingerprint"),
        )


@attrs.frozen
class Made:
    """What made a layer, as `provenance.made_by` describes it."""

    noted: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def stage(self) -> str | None:
        """The stage that ran: import, preprocess, annotate, predict, segment, ..."""
        return self.noted.get("stage")

    @property
    def step(self) -> Mapping[str, Any] | None:
        """The plugin of a preprocessing step, as `provenance.describe_plugin` describes it."""
        return self.noted.get("step")

    @property
    def model(self) -> str | None:
        """The model of a prediction: a plugin, or pretrained weights."""
        model = self.noted.get("model")
        return model.get("name") if isinstance(model, Mapping) else model

    @property
    def model_options(self) -> Mapping[str, Any]:
        """The options of the model of a prediction, as its weights had them; empty where that is not known."""
        found: Mapping[str, Any] = self.noted.get("model_options", {})
        return found

    @property
    def of(self) -> str:
        """The class of a prediction of several; "" where there is one."""
        return str(self.noted.get("of", ""))

    @property
    def inputs(self) -> list[Input]:
        return [Input.parse(noted) for noted in self.noted.get("inputs", [])]

    def ancestors(self) -> Iterator[Input]:
        """List all that it was made of, and what that was made of, ..."""
        for read in self.inputs:
            yield read
            yield from read.made.ancestors()

    def chain(self) -> Iterator[Made]:
        """Go back along first inputs: this, what made its input, what made the input of that, ..."""
        made = self
        while made.noted:
            yield made
            inputs = made.inputs
            made = inputs[0].made if inputs else Made()


@attrs.frozen
class AnnotatedBox:
    """A box of a layer that was annotated, and the annotator, as `provenance.describe_plugin` describes it."""

    box: Box
    annotator: Mapping[str, Any]

    @classmethod
    def parse(cls, noted: Mapping[str, Any]) -> Self:
        return cls(Box(noted["begin"], noted["end"]), noted.get("annotator", {}))

    def json(self) -> dict[str, Any]:
        return {"begin": list(self.box.begin), "end": list(self.box.end), "annotator": dict(self.annotator)}


@attrs.frozen
class Record:
    """What a layer of ours says of itself.

    Attributes
    ----------
    kind : what its voxels mean; None where an import could not tell
    made : what made it
    id
        Which layer it is, wherever it lies: given when it is made, the same for two that are made of the same in the same
        way. Empty of data from elsewhere.
    revision : another one after every write into it, and where it was made again of what cannot be told apart
    fingerprint
        Of its finest array's files (see `files.fingerprint`): another one means that somebody else wrote into it. None
        while it is open for editing
    planes : file names of the planes that it was imported from, where there is one file per plane
    remarks, questions : what the source that it was imported from said of it (see `Volume`)
    boxes : the boxes that were annotated
    layout : how a prediction was cut into blocks and computed
    num_objects : how many objects a segmentation has
    findings : what a preprocessing step says of what it did (`Fitted.attributes`)
    block : shape of the blocks that it is being written in; None once it is finished
    halved : whether its first coarser level is being written along with it
    object_sizes_vx : voxels of the smallest, the median and the largest object of a segmentation
    num_tiny, tiny_below_vx : how many of its objects are far smaller than most, and below how many voxels that is
    """

    kind: Kind | None = None
    made: Made = attrs.field(factory=Made)
    id: str = ""
    revision: str = ""
    fingerprint: str | None = None
    planes: Sequence[str] = ()
    boxes: Sequence[AnnotatedBox] = ()
    layout: Mapping[str, Any] | None = None
    num_objects: int | None = None
    findings: Mapping[str, Any] = attrs.field(factory=dict)
    block: Zyx | None = None
    halved: bool = False
    remarks: Sequence[str] = ()
    questions: Sequence[str] = ()
    object_sizes_vx: Sequence[int] = ()
    num_tiny: int = 0
    tiny_below_vx: int = 0

    @classmethod
    def of(cls, volume: Volume) -> Self:
        """Read the record of a volume; an empty one of data from elsewhere."""
        return cls.parse(volume.attributes, volume.path)

    @classmethod
    def parse(cls, attributes: Mapping[str, Any], address: str) -> Self:
        """Read the record in a group's attributes; `address` is the group's, for the message.

        Raises
        ------
        BadInput
            It was written by a version of ASEM whose records look otherwise.
        """
        noted = attributes.get(KEY)
        if noted is None:
            return cls()
        if noted.get("schema") != SCHEMA:
            raise BadInput(
                f"{address} was written by another version of ASEM ({noted.get('made_by', {}).get('asem_version', 'unknown')}): "
                f"its record has schema {noted.get('schema', 0)}, and this version reads {SCHEMA}. Open it with that version, "
                "or remove it and make it again."
            )
        block = noted.get("block")
        return cls(
            noted.get("kind"),
            Made(noted.get("made_by", {})),
            noted.get("id", ""),
            noted.get("revision", ""),
            noted.get("fingerprint"),
            tuple(noted.get("planes", ())),
            tuple(AnnotatedBox.parse(b) for b in noted.get("boxes", ())),
            noted.get("layout"),
            noted.get("num_objects"),
            noted.get("findings", {}),
            None if block is None else as_zyx(block),
            noted.get("halved", False),
            tuple(noted.get("remarks", ())),
            tuple(noted.get("questions", ())),
            tuple(noted.get("object_sizes_vx", ())),
            noted.get("num_tiny", 0),
            noted.get("tiny_below_vx", 0),
        )

    def attributes(self) -> dict[str, Any]:
        """Write the record as attributes of a group; what is not known is left out."""
        known = {
            "kind": self.kind,
            "id": self.id,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "planes": list(self.planes),
            "boxes": [b.json() for b in self.boxes],
            "layout": self.layout and dict(self.layout),
            "num_objects": self.num_objects,
            "findings": dict(self.findings),
            "block": self.block and list(self.block),
            "halved": self.halved,
            "remarks": list(self.remarks),
            "questions": list(self.questions),
            "object_sizes_vx": list(self.object_sizes_vx),
            "num_tiny": self.num_tiny,
            "tiny_below_vx": self.tiny_below_vx,
        }
        told = {key: value for key, value in known.items() if value or (value == 0 and key == "num_objects")}
        return {KEY: {"schema": SCHEMA, "made_by": dict(self.made.noted), **told}}


def record_at(layer: str | Path) -> Record:
    """Read the record of a layer on the disk, as it is now."""
    import zarr

    return Record.parse(dict(zarr.open_group(str(layer), mode="r").attrs), str(layer))


def note(layer: str | Path, **changes: Any) -> None:
    """Change fields of the record of a layer on the disk."""
    import zarr

    group = zarr.open_group(str(layer), mode="r+")
    group.update_attributes(attrs.evolve(Record.parse(dict(group.attrs), str(layer)), **changes).attributes())
