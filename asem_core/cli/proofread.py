"""`asem proofread`: correct objects by a log of edits, and write what it leaves."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asem_core.commands import DEFAULT_WORKERS, AsJson, BlockShape, On, Overwrite, Quiet, Workers, make_run, print_json

if TYPE_CHECKING:
    from asem_core.stages.proofread import Edit
    from asem_core.volume import Zyx

Layer = Annotated[Path, typer.Argument(help="The segmentation, for example cell.zarr/predictions/NAME/segmentation.")]
Ids = Annotated[list[int], typer.Argument(metavar="ID ...", help="Objects, by the ids that they have now.")]


def mount(app: typer.Typer) -> None:
    about = (
        "Correct the objects of a segmentation: merge, split, delete, relabel.\n\n"
        "The edits are kept with the layer, whose voxels stay as they were. `apply` writes the corrected objects to a layer of their own, "
        "which you then measure, view and export.\n\n"
        "Example: `asem proofread merge cell.zarr/predictions/mito/segmentation 12 31`"
    )
    group = typer.Typer(no_args_is_help=True, help=about)
    group.command("merge", no_args_is_help=True)(merge)
    group.command("split", no_args_is_help=True)(split)
    group.command("delete", no_args_is_help=True)(delete)
    group.command("relabel", no_args_is_help=True)(relabel)
    group.command("undo", no_args_is_help=True)(undo_)
    group.command("log", no_args_is_help=True)(log)
    group.command("apply", no_args_is_help=True)(apply_)
    app.add_typer(group, name="proofread")


def merge(layer: Layer, ids: Ids) -> None:
    """Make one object of several; it keeps the first id.

    Examples:

        asem proofread merge cell.zarr/predictions/mito/segmentation 12 31
    """
    from asem_core.stages.proofread import Edit

    _edit(layer, Edit("merge", tuple(ids)))


def split(
    layer: Layer,
    object_id: Annotated[int, typer.Argument(metavar="ID", help="The object to cut.")],
    one: Annotated[
        list[str] | None,
        typer.Option("--one", metavar="Z,Y,X", help="A voxel of the part that keeps the id; may be repeated."),
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option("--other", metavar="Z,Y,X", help="A voxel of the part that gets a new id; may be repeated."),
    ] = None,
    strokes: Annotated[
        str | None,
        typer.Option(help="Instead: a layer of strokes (seeds/NAME); object keeps the id, background gets a new one."),
    ] = None,
) -> None:
    """Cut an object in two, between voxels or strokes on both sides, where its fragments are divided most.

    The objects must be made of fragments: segment with `-s split=true`, or the cells of `membrane` with `-s cells=true`.

    Examples:

        asem proofread split cell.zarr/predictions/mito/segmentation 12 --one 40,100,80 --other 40,100,160

        asem proofread split cell.zarr/predictions/mito/segmentation 12 --strokes cell.zarr/seeds/cut
    """
    from asem_core.cell.store import open_volume
    from asem_core.errors import BadInput
    from asem_core.stages.proofread import Edit, strokes_of

    if (strokes is None) == (not one and not other):
        raise BadInput("Say where to cut: --one Z,Y,X and --other Z,Y,X, or --strokes LAYER.")
    sides = (_points(one), _points(other)) if strokes is None else strokes_of(strokes, open_volume(layer))
    _edit(layer, Edit("split", (object_id,), None, *sides))


def delete(layer: Layer, ids: Ids) -> None:
    """Remove objects.

    Examples:

        asem proofread delete cell.zarr/predictions/mito/segmentation 3 17 18
    """
    from asem_core.stages.proofread import Edit

    _edit(layer, Edit("delete", tuple(ids)))


def relabel(
    layer: Layer,
    object_id: Annotated[int, typer.Argument(metavar="ID", help="The object.")],
    new: Annotated[int, typer.Argument(help="The id that it gets; no other object may have it.")],
) -> None:
    """Give an object another id.

    Examples:

        asem proofread relabel cell.zarr/predictions/mito/segmentation 12 1000
    """
    from asem_core.stages.proofread import Edit

    _edit(layer, Edit("relabel", (object_id,), new))


def undo_(
    layer: Layer,
    num: Annotated[int, typer.Option("--number", "-n", min=1, help="How many of the last edits.")] = 1,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Take back the last edits.

    Examples:

        asem proofread undo cell.zarr/predictions/mito/segmentation -n 2
    """
    from asem_core.cell.edits import read_edits
    from asem_core.cell.store import open_volume
    from asem_core.stages.proofread import undo_edits

    for edit in undo_edits(layer, len(read_edits(open_volume(layer).attributes)) if every else num):
        typer.echo(f"Undone: {edit}")


def log(layer: Layer, as_json: AsJson = False) -> None:
    """List the edits, first to last.

    Examples:

        asem proofread log cell.zarr/predictions/mito/segmentation
    """
    from asem_core.cell.edits import read_edits
    from asem_core.cell.store import open_volume
    from asem_core.stages.proofread import Edit

    noted = read_edits(open_volume(layer).attributes)
    if as_json:
        print_json({"edits": noted})
        return
    for number, edit in enumerate(noted, 1):
        typer.echo(f"{number}. {Edit.parse(edit)}")
    if not noted:
        typer.echo(f"{layer} has no edits.")


def apply_(
    layer: Layer,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Layer to write.", show_default="`LAYER_proofread` beside it"),
    ] = None,
    workers: Workers = DEFAULT_WORKERS,
    on: On = None,
    block: BlockShape = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the objects as the edits leave them; what earlier edits of the same segmentation wrote there is replaced.

    Examples:

        asem proofread apply cell.zarr/predictions/mito/segmentation
    """
    from asem_core.catalog import load_catalog
    from asem_core.cell.record import Record
    from asem_core.stages.proofread import apply_edits, describe_edits

    made = apply_edits(layer, load_catalog(), make_run(workers, block, quiet, on), output, overwrite=overwrite)
    count = Record.of(made).num_objects
    if as_json:
        print_json({"path": made.path, "num_objects": count})
        return
    typer.echo(f"{made.path}: {count} objects. {describe_edits(made)}")


def _edit(layer: Path, edit: "Edit") -> None:
    from asem_core.blocks import Run
    from asem_core.catalog import load_catalog
    from asem_core.stages.proofread import edit_layer

    now = edit_layer(layer, edit, load_catalog(), Run(progress=False))
    typer.echo(f"{layer}: {now.edits[-1]}; {now.num_objects} objects.")


def _points(texts: Sequence[str] | None) -> "tuple[Zyx, ...]":
    from asem_core.errors import BadInput
    from asem_core.volume import as_zyx

    found: list[Any] = []
    for text in texts or ():
        try:
            found.append(as_zyx([int(part) for part in text.split(",")]))
        except (ValueError, BadInput):
            raise BadInput(f"A voxel is written z,y,x in whole numbers, as in 40,100,80; not '{text}'.") from None
    return tuple(found)
