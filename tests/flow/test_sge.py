"""Workers of a real Grid Engine on this machine: one host, two slots. Slow tests, as those of Slurm show the same paths."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

sys.path.insert(0, str(Path(__file__).parent))
from test_clusters import BOX, Slow, asem, kill_a_run, said, wait_for

from asem_core.blocks import Run, run_blocks
from asem_core.cell.store import open_volume
from asem_core.engine.clusters import Cluster
from asem_core.errors import BadInput

TOOLS = Path("/usr/lib/gridengine")
DEFAULTS = Path("/usr/share/gridengine")
SMP = """pe_name smp
slots 99
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $pe_slots
control_slaves FALSE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
"""
"""The parallel environment of several cores of one host, as sites call it."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(shutil.which(p) for p in ("sge_qmaster", "sge_execd", "qsub"))
        or not hasattr(os, "getuid")
        or os.getuid() != 0,
        reason="Grid Engine is not here (Debian: apt-get install gridengine-master gridengine-exec gridengine-client), or this is not root",
    ),
]


@pytest.fixture(scope="module")
def sge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cell of Grid Engine of its own, whose daemons run as root: what Debian's package made stays as it is."""
    root = tmp_path_factory.mktemp("sge")
    host = socket.gethostname().split(".")[0]
    for name in ("bin", "lib", "util", "utilbin"):
        (root / name).symlink_to(Path("/var/lib/gridengine") / name)
    for name in ("spool/qmaster/job_scripts", "spool/execd", "spool/spooldb", "default/common"):
        (root / name).mkdir(parents=True)
    common = root / "default" / "common"
    spool = root / "spool"
    common.joinpath("bootstrap").write_text(f"""
admin_user none
default_domain none
ignore_fqdn false
spooling_method berkeleydb
spooling_lib libspoolb
spooling_params {spool}/spooldb
binary_path /usr/sbin
qmaster_spool_dir {spool}/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
""")
    common.joinpath("act_qmaster").write_text(f"{host}\n")
    common.joinpath("host_aliases").write_text(f"{host} localhost\n")
    usual = DEFAULTS.joinpath("default-configuration").read_text()
    ours = {"execd_spool_dir": f"{spool}/execd", "min_uid": "0", "min_gid": "0", "load_report_time": "00:00:02"}
    root.joinpath("configuration").write_text(_changed(usual, ours))
    ports = {f"SGE_{name}_PORT": str(port) for name, port in zip(("QMASTER", "EXECD"), _free_ports(2), strict=True)}
    kept = {name: os.environ.get(name) for name in ("SGE_ROOT", "SGE_CELL", "SGE_ND", *ports)}
    os.environ |= {"SGE_ROOT": str(root), "SGE_CELL": "default", "SGE_ND": "1", **ports}
    started: list[subprocess.Popen[bytes]] = []
    try:
        _do(TOOLS / "spoolinit", "berkeleydb", "libspoolb", spool / "spooldb", "init")
        _do(TOOLS / "spooldefaults", "configuration", root / "configuration")
        _do(TOOLS / "spooldefaults", "complexes", DEFAULTS / "util/resources/centry")
        _do(TOOLS / "spooldefaults", "usersets", DEFAULTS / "util/resources/usersets")
        _do(TOOLS / "spooldefaults", "managers", "root")
        with (root / "daemons.log").open("wb") as log:
            started.append(subprocess.Popen(["sge_qmaster"], stdout=log, stderr=log))
            wait_for(lambda: subprocess.run(["qconf", "-sh"], capture_output=True, check=False).returncode == 0)
            _do("qconf", "-as", host)
            started.append(subprocess.Popen(["sge_execd"], stdout=log, stderr=log))
        soon = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
        root.joinpath("scheduler").write_text(_changed(said("qconf", "-ssconf") + "\n", soon))
        _do("qconf", "-Msconf", root / "scheduler")
        root.joinpath("smp").write_text(SMP)
        _do("qconf", "-Ap", root / "smp")
        queue = {"qname": "all.q", "hostlist": host, "slots": "2", "shell": "/bin/sh", "load_thresholds": "NONE"}
        queue["pe_list"] = "smp"
        root.joinpath("queue").write_text(_changed(said("qconf", "-sq") + "\n", queue))
        _do("qconf", "-Aq", root / "queue")
        wait_for(lambda: "lx-amd64" in said("qstat", "-f") and "au" not in said("qstat", "-f").split())
        yield root
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _changed(text: str, values: dict[str, str]) -> str:
    """Change values of a table as Grid Engine writes them: a name, and its value, a line."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "".join(f"{name} {values.get(name, ''.join(rest))}\n" for name, *rest in lines)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _do(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def in_queue() -> list[str]:
    return [line.split()[0] for line in said("qstat").splitlines()[2:]]


def on_sge(**options) -> Cluster:
    return Cluster("sge", "sge", **{"workers": 2, "memory_gb": 4, "address": "127.0.0.1", **options})


def test_stages_give_on_sge_what_they_give_here(sge, tmp_path, monkeypatch):
    """Import, CLAHE and prediction by the commands, with --on: bit by bit; each worker takes both slots, so one waits; no job is left."""
    config = tmp_path / "config.toml"
    config.write_text('[clusters.sge]\nkind = "sge"\nworkers = 2\ncores = 2\nmemory_gb = 8\naddress = "127.0.0.1"\n')
    monkeypatch.setenv("ASEM_CONFIG", str(config))
    grey = np.random.default_rng(0).integers(0, 255, (64, 64, 128), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", grey)
    layers = ("raw", "raw_clahe", "map")
    for name, on in (("here", []), ("there", ["--on", "sge"])):
        cell = str(tmp_path / f"{name}.zarr")
        words = ["--model", "membrane-fibsem-10nm", "--as-is", "--device", "cpu", "--precision", "float32"]
        for command in (
            ["import", str(tmp_path / "stack.tif"), "-o", cell, "--voxel-size", "10", "--block", "64"],
            ["preprocess", cell, "--use", "clahe", "-s", "kernel_vx=[8,32,32]", "--block", "64"],
            ["predict", f"{cell}/raw", *words, "--block", "64", "-o", f"{cell}/map"],
        ):
            done = asem(*command, "-q", *on)
            assert done.exit_code == 0, done.output
    for layer in layers:
        one, other = (open_volume(tmp_path / f"{name}.zarr" / layer) for name in ("here", "there"))
        assert (one.read() == other.read()).all()
    assert not in_queue()


def test_cancelled_jobs_are_replaced(sge, tmp_path, caplog):
    def disturb() -> None:
        wait_for(lambda: len(list(tmp_path.glob("done-*"))) >= 2)
        subprocess.run(["qdel", in_queue()[0]], check=False, capture_output=True)

    trouble = threading.Thread(target=disturb)
    trouble.start()
    run_blocks(Slow(tmp_path, 0.7), BOX, 1, Run(progress=False, on=on_sge(), scratch=tmp_path / "s"), name="disturbed")
    trouble.join()
    assert len(list(tmp_path.glob("done-*"))) == 24
    assert "and is replaced" in caplog.text
    assert not in_queue()


def test_a_time_limit_is_met_by_others_that_go_on(sge, tmp_path, caplog):
    """The queue ends a job after a minute, and another goes on."""
    limited = on_sge(minutes=1, workers=1)
    run_blocks(Slow(tmp_path, 4), BOX, 1, Run(progress=False, on=limited, scratch=tmp_path / "s"), name="limited")
    assert len(list(tmp_path.glob("done-*"))) == 24
    assert "reached its time limit and is replaced" in caplog.text
    assert "ended early" not in caplog.text
    assert not in_queue()


def test_no_job_is_left_when_a_run_is_killed(sge, tmp_path):
    kill_a_run("test_sge", "on_sge(workers=4)", in_queue, tmp_path)


def test_a_wrong_queue_is_said(sge, tmp_path):
    wrong = on_sge(options="-q nowhere")
    with pytest.raises(BadInput, match=r"'sge' cannot start workers: .*nowhere.*asem clusters list"):
        run_blocks(Slow(tmp_path, 0), BOX, 1, Run(progress=False, on=wrong, scratch=tmp_path / "s"), name="w")
