"""`asem clusters`: name the machines that commands work on with `--on`."""

from __future__ import annotations

import time
from typing import Annotated

import attrs
import typer

from asem_core.commands import AsJson, print_json
from asem_core.errors import quoted


def mount(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True,
        help="Name clusters, to run commands on them with `--on NAME`.\n\nExample: `asem clusters add big --kind slurm --workers 40`",
    )
    group.command("add", no_args_is_help=True)(add)
    group.command("list")(list_)
    group.command("test", no_args_is_help=True)(test)
    group.command("where")(where)
    app.add_typer(group, name="clusters")


def add(
    name: Annotated[str, typer.Argument(help="Name for the cluster.")],
    kind: Annotated[str, typer.Option(help="Kind of cluster: slurm, lsf, sge, ssh, or command.")],
    workers: Annotated[int, typer.Option(min=1, help="Largest number of workers at once.")] = 2,
    cores: Annotated[int, typer.Option(min=1, help="Cores of each worker.")] = 1,
    memory_gb: Annotated[float, typer.Option(help="Memory of each worker in GB.")] = 4.0,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each worker.")] = 0,
    minutes: Annotated[
        int,
        typer.Option(min=0, help="Time limit of each worker, after which another takes over. 0: the queue's limit."),
    ] = 0,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of this machine that workers connect to.", show_default="that of the outgoing connection"
        ),
    ] = None,
    hosts: Annotated[str | None, typer.Option(help="ssh: machines to log in to, separated by commas.")] = None,
    options: Annotated[str, typer.Option(help="Further options of the submit command, or the command itself.")] = "",
    folder: Annotated[
        str | None,
        typer.Option(help="Folder that all machines see, for work without a cell.", show_default="in the user's cache"),
    ] = None,
) -> None:
    """Name a cluster. It is stored as a table in your configuration file, where you can edit it.

    Examples:

        asem clusters add big --kind slurm --workers 40 --cores 4 --memory-gb 16 --minutes 240 --options "-p long"

        asem clusters add gpus --kind slurm --workers 8 --gpus 1 --cores 8 --memory-gb 64

        asem clusters add desks --kind ssh --hosts desk1,desk2 --workers 4
    """
    from asem_core.engine.clusters import add_cluster, make_cluster

    table = {
        "kind": kind, "workers": workers, "cores": cores, "memory_gb": memory_gb, "gpus": gpus, "minutes": minutes, "options": options,
        **({"address": address} if address else {}),
        **({"hosts": [h.strip() for h in hosts.split(",")]} if hosts else {}),
        **({"folder": folder} if folder else {}),
    }  # fmt: skip
    cluster = make_cluster(name, table, "asem clusters add")
    file = add_cluster(cluster)
    typer.echo(
        f"{name} was added to {file}. Its workers will connect to {cluster.address}. Try it: asem clusters test {quoted(name)}"
    )


def list_(as_json: AsJson = False) -> None:
    """List the clusters that you have named.

    Example:

        asem clusters list
    """
    from asem_core.engine.clusters import clusters
    from asem_core.paths import config_path

    known = clusters()
    if as_json:
        print_json([attrs.asdict(cluster) for cluster in known.values()])
        return
    if not known:
        typer.echo(f"{config_path()} names no cluster. Add one: asem clusters add NAME --kind slurm")
    for cluster in known.values():
        of_each = f"{cluster.cores} cores, {cluster.memory_gb:g} GB" + (
            f", {cluster.gpus} GPUs" if cluster.gpus else ""
        )
        limit = f", {cluster.minutes} min" if cluster.minutes else ""
        more = f"; {cluster.options}" if cluster.options else ""
        typer.echo(
            f"{cluster.name:16} {cluster.kind}: {cluster.workers} workers of {of_each}{limit}; connect to {cluster.address}{more}"
        )


def test(
    name: Annotated[str, typer.Argument(help="Name of the cluster; NAME:8 sets the number of workers.")],
) -> None:
    """Start workers on a cluster, and report where they ran, how soon the first started, and how fast blocks are processed.

    Example:

        asem clusters test big:4
    """
    from asem_core.blocks import Run, map_blocks
    from asem_core.engine.clusters import find_cluster
    from asem_core.volume import Box

    cluster = find_cluster(name)
    num_blocks = 4 * cluster.workers
    begun = time.time()
    box = Box((0, 0, 0), (num_blocks, 1, 1))
    found = [
        str(report).split("|")
        for _, report in map_blocks(_Report(), box, 1, Run(on=cluster, progress=False), name="test")
    ]
    first = min(float(at) for _, _, at in found) - begun
    for machine in sorted({machine for machine, _, _ in found}):
        workers = {worker for m, worker, _ in found if m == machine}
        blocks = sum(m == machine for m, _, _ in found)
        typer.echo(f"{machine}: {len(workers)} workers, {blocks} blocks")
    typer.echo(
        f"The first block started after {first:.1f} s, all {num_blocks} were finished after {time.time() - begun:.1f} s."
    )


def where() -> None:
    """Print the path of the configuration file with the clusters.

    Example:

        asem clusters where
    """
    from asem_core.paths import config_path

    typer.echo(str(config_path()))


class _Report:
    """Work that says where and when it was done."""

    def __call__(self):  # type: ignore[no-untyped-def]
        import socket

        import numpy as np

        from asem_core.blocks import worker_index

        def report(_: object) -> np.ndarray:
            at = time.time()
            time.sleep(0.2)
            return np.array(f"{socket.gethostname()}|{worker_index()}|{at}")

        return report
