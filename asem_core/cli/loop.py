"""`asem loop`: learn from strokes, round after round, beside whoever paints."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asem_core.commands import AsJson, Quiet, make_run, print_json, read_zyx
from asem_core.errors import BadInput, quoted

if TYPE_CHECKING:
    from asem_core.training.rounds import Round


def mount(app: typer.Typer) -> None:
    app.command("loop", no_args_is_help=True)(loop)


def loop(
    cell: Annotated[Path, typer.Argument(help="The cell, for example cell.zarr.")],
    labels: Annotated[
        str, typer.Option("--labels", metavar="NAME", help="Strokes to learn from: golgi for seeds/golgi.")
    ],
    minutes: Annotated[
        float | None,
        typer.Option(help="Keep learning for this long, from whatever is painted.", show_default="one round"),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Only show the rounds so far.")] = False,
    accept: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X", help="Paint the predicted object at this voxel as object; nothing is learnt."),
    ] = None,
    reject: Annotated[
        str | None,
        typer.Option(
            metavar="Z,Y,X", help="Paint the predicted object at this voxel as background; nothing is learnt."
        ),
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Predict the whole cell with the network as it is now; nothing is learnt.")
    ] = False,
    round_seconds: Annotated[float, typer.Option(help="Learning time of a round.")] = 45.0,
    iterations: Annotated[int | None, typer.Option(help="Iterations per round, instead of a time.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Model plugin: see `asem plugins`.", show_default="by the name of the labels"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="WEIGHTS", help="Weights to start from: a file, a run, or a name from `asem models list`."
        ),
    ] = None,
    raw: Annotated[
        str | None, typer.Option("--raw", help="Image layer.", show_default="what asem prepare made, or raw")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Learn from the strokes of a cell: a pixel classifier at once, a network round after round.

    Everything lies in the cell (loop/NAME): run the command again to go on, also after an interruption. One stroke in five is set
    aside and never learnt from; whichever map is right about more of them is shown. Meanwhile, paint with
    `asem annotate open`.

    Examples:

        asem loop cell.zarr --labels mitochondria

        asem loop cell.zarr --labels mitochondria --minutes 10

        asem loop cell.zarr --labels mitochondria --reject 60,120,88

        asem loop cell.zarr --labels mitochondria --finish

        ssh gpu asem loop /mounted/cell.zarr --labels mitochondria --minutes 60
    """
    from asem_core.catalog import load_catalog
    from asem_core.stages.correct import correct_object
    from asem_core.stages.learning import finish_cell, keep_learning, to_keep
    from asem_core.stages.loop import Session
    from asem_core.stages.rounds import LoopOptions

    once = {"--status": status, "--accept": accept, "--reject": reject, "--finish": finish}
    asked = [flag for flag, value in once.items() if value]
    if len(asked) > 1:
        raise BadInput(f"{' and '.join(asked)} are done one at a time: give one of them.")
    options = LoopOptions(model, raw, weights, round_seconds, iterations, seed, device)
    place = accept or reject
    with Session.open(cell, labels, load_catalog(), options, to_learn=not (status or finish or place)) as session:
        if status:
            _tell(session.rounds(), as_json)
            return
        if place is not None:
            voxel = read_zyx(place, asked[0])
            count = correct_object(session, voxel, accept=accept is not None)
            typer.echo(
                f"{count:,} voxels were painted as {'object' if accept else 'background'}. The next round learns from them."
            )
            return
        if finish:
            probability, run = finish_cell(session, make_run(1, quiet=quiet))
            typer.echo(
                f"{probability.path}\nNext: asem segment {quoted(probability.path)}\nTo keep the model: {to_keep(session, run)}"
            )
            return
        begun, made = time.monotonic(), list["Round"]()

        def told(one: "Round") -> None:
            made.append(one)
            if not as_json:
                typer.echo(str(one))
            left = (minutes or 0) - (time.monotonic() - begun) / 60
            if left > 0 and not quiet:
                typer.echo(f"{left:.1f} min left: the next round learns from what is painted now.", err=True)

        keep_learning(
            session,
            60 * (minutes or 0),
            told=told,
            waiting=lambda why: typer.echo(f"Waiting. {why}", err=True),
            progress=not quiet,
        )
        if as_json:
            _tell(made, as_json)
        else:
            typer.echo(
                f"Next: asem annotate suggest {quoted(cell)} --labels {quoted(labels)} (where to paint), or "
                f"asem loop {quoted(cell)} --labels {quoted(labels)} --finish (the whole cell)"
            )


def _tell(rounds: "list[Round]", as_json: bool) -> None:
    import attrs

    if as_json:
        print_json([attrs.asdict(one) for one in rounds])
        return
    for one in rounds:
        typer.echo(str(one))
    if not rounds:
        typer.echo("No round is finished yet.")
