"""Clusters by name: what a worker gets there, and how one is submitted, looked after and cancelled.

A cluster is a table of the user's `config.toml` (`asem clusters where` prints its place; the file that ASEM_CONFIG names):

    [clusters.slurm]
    kind = "slurm"
    workers = 20
    cores = 4
    memory_gb = 16
    minutes = 240
    options = "-p long -A lab"
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import platformdirs

from asem_core.errors import BadInput, quoted
from asem_core.paths import config_path

Kind = Literal["slurm", "lsf", "sge", "ssh", "command"]


def _positive(_: object, attribute: Any, value: float) -> None:
    if not 0 < value < float("inf"):
        raise BadInput(f"{attribute.name} of a cluster must be more than 0, not {value}.")


@attrs.frozen
class Cluster:
    """Where workers run that are not of this machine.

    Parameters
    ----------
    name : what the user calls it
    kind
        "slurm", "lsf" and "sge" submit a job for each worker; "ssh" logs in to `hosts`, one after the other; "command" starts
        what stands in `options`, followed by the worker's command.
    workers : at most so many at once
    cores, memory_gb, gpus : what each worker asks for
    minutes : time limit of each worker, after which another takes its place; 0 = the queue's own
    address
        Name or number of this machine at which workers connect to it: it listens there only.
    hosts : machines to log in to
    options : further options of the submitting command, as on a command line
    folder
        A folder that all machines see, for orders and logs of work that has no cell; by default in the user's cache.
    """

    name: str
    kind: Kind = "slurm"
    workers: int = attrs.field(default=2, validator=_positive)
    cores: int = attrs.field(default=1, validator=_positive)
    memory_gb: float = attrs.field(default=4.0, validator=_positive)
    gpus: int = 0
    minutes: int = 0
    address: str = attrs.field(factory=lambda: own_address())
    hosts: tuple[str, ...] = ()
    options: str = ""
    folder: str = attrs.field(factory=lambda: str(platformdirs.user_cache_path("asem") / "clusters"))

    def __attrs_post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise BadInput(f"A cluster's name has letters, digits, dots, dashes and underscores, not '{self.name}'.")
        if self.kind == "ssh" and not self.hosts:
            raise BadInput(f"The cluster '{self.name}' of kind ssh names no hosts.")
        if self.kind == "command" and not self.options:
            raise BadInput(f"The cluster '{self.name}' of kind command names no command in its options.")

    @property
    def device(self) -> str:
        """What "auto" is there."""
        return "cuda" if self.gpus else "cpu"

    @property
    def queue(self) -> Queue | None:
        """How its queue is spoken to; None where workers are started directly."""
        return QUEUES.get(self.kind)

    def command(self, command: Sequence[str], index: int, name: str, log: Path) -> list[str]:
        """Say what starts, or submits, the worker `index`."""
        threads = [f"{name}={self.cores}" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")]
        command = ["env", *threads, *command]
        if self.queue is not None:
            return self.queue.submit(self, f"asem-{name}-{index}", log, command)
        options = shlex.split(self.options)
        if self.kind == "ssh":
            host = self.hosts[index % len(self.hosts)]
            return ["ssh", "-o", "BatchMode=yes", *options, host, shlex.join(command)]
        return [*options, *command]


@attrs.frozen
class Queue:
    """The commands of a queueing system.

    Parameters
    ----------
    submit : the command that submits a worker's command under a name, with its log; its output holds the job's number
    states : the command that prints a line for each of some jobs that is not over, "NUMBER STATE"
    cancel : the command that ends some jobs
    waiting : states in which a job has not begun
    over : states of jobs that are listed and over
    """

    submit: Callable[[Cluster, str, Path, Sequence[str]], list[str]]
    states: Callable[[Sequence[str]], list[str]]
    cancel: Callable[[Sequence[str]], list[str]]
    waiting: frozenset[str]
    over: frozenset[str] = frozenset()


def _sbatch(cluster: Cluster, name: str, log: Path, command: Sequence[str]) -> list[str]:
    asked = ["--cpus-per-task", f"{cluster.cores}", "--mem", f"{cluster.memory_gb * 1000:.0f}M", "--no-requeue"]
    asked += ["--time", f"{cluster.minutes}"] if cluster.minutes else []
    asked += ["--gres", f"gpu:{cluster.gpus}"] if cluster.gpus else []
    told = ["--job-name", name, "--output", str(log), "--open-mode", "append"]
    return [
        "sbatch", "--parsable", "--nodes=1", "--ntasks=1", *told, *asked, *shlex.split(cluster.options),
        "--wrap", f"exec {shlex.join(command)}",
    ]  # fmt: skip


def _bsub(cluster: Cluster, name: str, log: Path, command: Sequence[str]) -> list[str]:
    memory = f"{cluster.memory_gb:.3g}GB"
    asked = ["-n", f"{cluster.cores}", "-M", memory, "-R", f"span[hosts=1] rusage[mem={memory}]"]
    asked += ["-W", f"{cluster.minutes}"] if cluster.minutes else []
    asked += ["-gpu", f"num={cluster.gpus}"] if cluster.gpus else []
    return ["bsub", "-J", name, "-o", str(log), *asked, *shlex.split(cluster.options), f"exec {shlex.join(command)}"]


def _qsub(cluster: Cluster, name: str, log: Path, command: Sequence[str]) -> list[str]:
    asked = ["-l", f"h_vmem={1000 * cluster.memory_gb / cluster.cores:.0f}M"]
    asked += ["-pe", "smp", f"{cluster.cores}"] if cluster.cores > 1 else []
    asked += ["-l", f"h_rt={60 * cluster.minutes}"] if cluster.minutes else []
    asked += ["-l", f"gpu={cluster.gpus}"] if cluster.gpus else []
    told = ["-N", name, "-o", str(log), "-j", "y", "-cwd", "-V", "-r", "n"]
    return ["qsub", "-terse", "-b", "y", *told, *asked, *shlex.split(cluster.options), *command]


QUEUES: Mapping[str, Queue] = {
    "slurm": Queue(
        _sbatch,
        lambda jobs: ["squeue", "--noheader", "--format", "%i %T", "--jobs", ",".join(jobs)],
        lambda jobs: ["scancel", *jobs],
        frozenset({"PENDING", "CONFIGURING", "REQUEUED"}),
        frozenset({"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}),
    ),
    "lsf": Queue(
        _bsub,
        lambda jobs: ["bjobs", "-noheader", "-o", "jobid stat", *jobs],
        lambda jobs: ["bkill", *jobs],
        frozenset({"PEND", "PSUSP"}),
        frozenset({"DONE", "EXIT"}),
    ),
    "sge": Queue(
        _qsub,
        # Its list has columns of its own: number, priority, name, user, state.
        lambda jobs: ["sh", "-c", f"qstat | awk '$1 ~ /^({'|'.join(jobs)})$/ {{print $1, $5}}'"],
        lambda jobs: ["qdel", *jobs],
        frozenset({"qw", "hqw", "t"}),
    ),
}


def own_address() -> str:
    """Guess at which address other machines reach this one: that of the way out; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation, which nobody has
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


# --- the user's file ---------------------------------------------------------------------------------------------


def clusters() -> dict[str, Cluster]:
    """Read the clusters that the user has named.

    Raises
    ------
    BadInput
        The file is not TOML, or a table has an unknown key or a wrong value.
    """
    path = config_path()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("clusters", {})
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not TOML: {error}.") from None
    return {name: make_cluster(name, table, str(path)) for name, table in tables.items()}


def make_cluster(name: str, table: Any, place: str) -> Cluster:
    """Check a table that describes a cluster."""
    from asem_core.recipe import build

    if not isinstance(table, Mapping):
        raise BadInput(f"{place}: [clusters.{name}] is not a table.")
    return build(Cluster, {**table, "name": name}, f"{place} @ [clusters.{name}]")


def find_cluster(name: str) -> Cluster:
    """Find a cluster, named as "slurm" or, with another number of workers, as "slurm:8".

    Raises
    ------
    BadInput
        None is called so, or the number is none.
    """
    name, colon, number = name.partition(":")
    known = clusters()
    if name not in known:
        raise BadInput(
            f"No cluster is called '{name}'. Known: {', '.join(known) or 'none'}. Name one: asem clusters add {quoted(name)} --kind slurm"
        )
    if not colon:
        return known[name]
    if not number.isdigit() or int(number) < 1:
        raise BadInput(f"'{name}:{number}': after the colon comes the number of workers, for example {name}:8.")
    return attrs.evolve(known[name], workers=int(number))


def add_cluster(cluster: Cluster) -> Path:
    """Append a cluster to the user's file, whose other lines stay as they are; return the file.

    Raises
    ------
    BadInput
        One of that name is there.
    """
    path = config_path()
    if cluster.name in clusters():
        raise BadInput(f"{path} has a cluster '{cluster.name}' already. Edit it there, or choose another name.")
    same = attrs.asdict(Cluster(cluster.name, hosts=cluster.hosts, options=cluster.options, address=""))
    chosen = {
        k: v
        for k, v in attrs.asdict(cluster).items()
        if v != same[k] or (k in ("hosts", "options") and v) or k == "kind"
    }
    lines = [f"\n[clusters.{_toml(cluster.name)}]", *(f"{key} = {_toml(value)}" for key, value in chosen.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path


def _toml(value: Any) -> str:
    return json.dumps(
        list(value) if isinstance(value, tuple) else value
    )  # of texts, numbers and lists both write the same
