"""Workers of a cluster: a real Slurm of two nodes on this machine, where it is installed, and machines that are commands."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from asem_core.blocks import Run, map_blocks, run_blocks
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.engine.clusters import QUEUES, Cluster, clusters, find_cluster
from asem_core.errors import BadInput, BlockFailed
from asem_core.volume import Box

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
needs_slurm = pytest.mark.skipif(
    not all(shutil.which(p) for p in PROGRAMS) or not hasattr(os, "getuid") or os.getuid() != 0,
    reason="Slurm is not here (Debian: apt-get install slurm-wlm munge), or this is not root",
)
BOX = Box((0, 0, 0), (24, 1, 1))


class Slow:
    """Work that notes who did a block, and takes a while."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def __call__(self):
        def work(box: Box) -> np.ndarray:
            (self.folder / f"begun-{box.begin[0]}-{os.getpid()}").touch()
            time.sleep(self.seconds)
            (self.folder / f"done-{box.begin[0]}").touch()
            return np.array(box.begin)

        return work


class DiesOnce(Slow):
    """Work that ends its process at a block, once."""

    def __call__(self):
        work = super().__call__()

        def dying(box: Box) -> np.ndarray:
            if box.begin[0] == 5 and not (self.folder / "died").exists():
                (self.folder / "died").touch()
                print("no memory left", file=sys.stderr, flush=True)
                os._exit(3)
            return work(box)

        return dying


def wait_for(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.2)


# --- without a queue ----------------------------------------------------------------------------------------------


def here(workers: int = 2, **options) -> Cluster:
    return Cluster("here", "command", workers=workers, options="env", address="127.0.0.1", **options)


def test_workers_that_a_command_starts(tmp_path):
    found = list(
        map_blocks(Slow(tmp_path, 0), BOX, 1, Run(progress=False, on=here(folder=str(tmp_path / "c"))), name="a")
    )
    assert [int(result[0]) for _, result in found] == list(range(24))
    assert not list((tmp_path / "c").iterdir())


def test_a_worker_that_ends_early_is_replaced_and_its_log_named(tmp_path, caplog):
    run_blocks(DiesOnce(tmp_path, 0), BOX, 1, Run(progress=False, on=here(1), scratch=tmp_path / "s"), name="dies")
    assert "a worker ended early (no memory left; " in caplog.text
    assert "0.log) and is replaced." in caplog.text
    assert len(list(tmp_path.glob("done-*"))) == 24


def test_workers_that_never_live_end_the_run(tmp_path):
    """A fault in what starts them is not tried for ever."""
    never = Cluster(
        "never", "command", workers=1, options="sh -c 'echo no such node >&2; exit 7' --", address="127.0.0.1"
    )
    with pytest.raises(
        BlockFailed, match=r"ended early \(no such node\).*more memory for each worker of 'never'.*workers"
    ):
        run_blocks(Slow(tmp_path, 0), BOX, 1, Run(progress=False, on=never, scratch=tmp_path / "s"), name="never")
    wrong = Cluster("wrong", "command", options="/no/such/program", address="127.0.0.1")
    with pytest.raises(BadInput, match=r"'wrong' cannot start workers: /no/such/program: .*No such file"):
        run_blocks(Slow(tmp_path, 0), BOX, 1, Run(progress=False, on=wrong, scratch=tmp_path / "s"), name="wrong")


def test_waiting_is_said(tmp_path, caplog, monkeypatch):
    """Workers that come late are waited for, with a sentence."""
    monkeypatch.setattr("asem_core.engine.crew.WAITING_TOLD_S", 0.5)
    late = Cluster("late", "command", workers=1, options="sh -c 'sleep 2; exec \"$@\"' --", address="127.0.0.1")
    run_blocks(Slow(tmp_path, 0), BOX, 8, Run(progress=False, on=late, scratch=tmp_path / "s"), name="late")
    assert "late: no worker of 'late' has started yet" in caplog.text


def test_no_worker_outlives_a_run_that_is_killed(tmp_path):
    """Killed with its whole group, the run's workers end, too: what looks after them is in a group of its own."""
    program = (
        "import sys; sys.path.insert(0, {0!r})\nfrom pathlib import Path\nfrom test_clusters import *\n"
        "run_blocks(Slow(Path({1!r}), 60), BOX, 1, Run(progress=False, on=here(), scratch=Path({1!r}) / 's'), name='k')"
    ).format(str(Path(__file__).parent), str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    wait_for(lambda: len(list(tmp_path.glob("begun-*"))) >= 2)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    workers = [int(p.name.split("-")[2]) for p in tmp_path.glob("begun-*")]
    wait_for(lambda: not any(Path(f"/proc/{w}").exists() for w in workers), 10)


# --- a queue of three small programs ------------------------------------------------------------------------------

SBATCH = """#!{python}
import os, subprocess, sys
calls = os.path.join({folder!r}, "calls")
with open(calls, "a") as file:
    file.write("x")
if os.path.getsize(calls) == 2:
    sys.exit("sbatch: error: Unable to contact slurm controller (connect failure)")
log = open(sys.argv[sys.argv.index("--output") + 1], "ab")
print(subprocess.Popen(["sh", "-c", sys.argv[-1]], stdout=log, stderr=log, start_new_session=True).pid)
"""
SQUEUE = "#!/bin/sh\nfor i in $(echo \"$5\" | tr , ' '); do case \"$(ps -o stat= -p $i)\" in ''|Z*) ;; *) echo $i RUNNING;; esac; done\n"
SCANCEL = '#!/bin/sh\nkill "$@"\n'


@pytest.mark.skipif(not shutil.which("ps"), reason="the programs are scripts of a shell that ask ps")
def test_a_queue_that_is_away_for_a_while_is_asked_again(tmp_path, monkeypatch, caplog):
    """A worker ended, and the queue refuses another at first: that is no end of the run."""
    programs = tmp_path / "bin"
    programs.mkdir()
    scripts = {
        "sbatch": SBATCH.format(python=sys.executable, folder=str(tmp_path)),
        "squeue": SQUEUE,
        "scancel": SCANCEL,
    }
    for name, text in scripts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    queue = Cluster("q", workers=1, address="127.0.0.1")
    run_blocks(DiesOnce(tmp_path, 0), BOX, 1, Run(progress=False, on=queue, scratch=tmp_path / "s"), name="away")
    assert len(list(tmp_path.glob("done-*"))) == 24
    assert (tmp_path / "calls").read_text() == "xxx"
    assert "a worker ended early (no memory left; " in caplog.text


# --- names --------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ASEM_CONFIG", str(tmp_path / "config.toml"))
    return tmp_path / "config.toml"


def asem(*words: str):
    return CliRunner().invoke(make_app(), list(words))


def test_a_cluster_is_named_listed_and_tried(config):
    config.write_text("# mine\n[registry]\ncards = []\n")
    said = asem(
        "clusters",
        "add",
        "lab",
        "--kind",
        "command",
        "--options",
        "nice env",
        "--workers",
        "3",
        "--address",
        "127.0.0.1",
    )
    assert said.exit_code == 0, said.output
    assert config.read_text().startswith("# mine\n[registry]")
    assert clusters()["lab"] == Cluster("lab", "command", workers=3, options="nice env", address="127.0.0.1")
    assert find_cluster("lab:5").workers == 5
    assert "lab              command: 3 workers of 1 cores, 4 GB" in asem("clusters", "list").output
    tried = asem("clusters", "test", "lab:2")
    assert f"{socket.gethostname()}: 2 workers, 8 blocks" in tried.output
    assert isinstance(asem("clusters", "add", "lab", "--kind", "slurm").exception, BadInput | SystemExit)


@pytest.mark.parametrize(
    ("table", "name", "said"),
    [
        ('kind = "slrum"', "a", "kind"),
        ("workers = 0", "a", "more than 0"),
        ("memory_gb = nan", "a", "more than 0"),
        ("coers = 2", "a", "cores"),
        ('kind = "ssh"', "a", "names no hosts"),
        ('kind = "command"', "a", "names no command"),
        ("", "b", r"No cluster is called 'b'\. Known: a\. Name one: asem clusters add b"),
        ("", "a:many", "the number of workers"),
        ('[clusters."b c"]', "b c", "letters, digits"),
    ],
)
def test_bad_clusters(config, table, name, said):
    config.write_text(f"[clusters.a]\n{table}\n")
    with pytest.raises(BadInput.__mro__[1], match=said):
        find_cluster(name)


def test_what_queues_are_asked():
    """The commands, word by word, as their manuals have them (LSF was not at hand; SGE runs in test_sge)."""
    asked = Cluster("q", cores=4, memory_gb=16, gpus=1, minutes=90, options="-p gpu", address="10.0.0.1", workers=3)
    log = Path("/scratch/0.log")
    sbatch = QUEUES["slurm"].submit(asked, "asem-p-0", log, ["python", "-m", "worker", "a b"])
    assert {"--parsable", "16000M", "90", "gpu:1", "-p", "asem-p-0"} < set(sbatch)
    assert sbatch[-1] == "exec python -m worker 'a b'"
    bsub = QUEUES["lsf"].submit(asked, "asem-p-0", log, ["python"])
    assert bsub[:7] == ["bsub", "-J", "asem-p-0", "-o", str(log), "-n", "4"]
    assert "num=1" in bsub
    qsub = QUEUES["sge"].submit(asked, "asem-p-0", log, ["python"])
    assert "h_vmem=4000M" in qsub
    assert "h_rt=5400" in qsub
    ssh = Cluster("d", "ssh", hosts=("one", "two"), address="10.0.0.1").command(["python", "a b"], 3, "p", log)
    assert ssh[:4] == ["ssh", "-o", "BatchMode=yes", "two"]
    assert ssh[4].endswith("python 'a b'")


# --- Slurm --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Path]:
    """Two nodes on this machine."""
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().split(".")[0]
    key = Path("/etc/munge/munge.key")
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        shutil.chown(key, "munge", "munge")
        key.chmod(0o400)
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    subprocess.run(["runuser", "-u", "munge", "--", "/usr/sbin/munged"], check=False, capture_output=True)
    conf = folder / "slurm.conf"
    conf.write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=2000
PartitionName=main Nodes=n1,n2 Default=YES State=UP
""")
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    kept = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    started = [
        subprocess.Popen(["slurmctld", "-D", "-f", str(conf)], stderr=subprocess.DEVNULL),
        *(
            subprocess.Popen(["slurmd", "-D", "-f", str(conf), "-N", n], stderr=subprocess.DEVNULL)
            for n in ("n1", "n2")
        ),
    ]
    try:
        wait_for(lambda: said("sinfo", "-h", "-o", "%t %D") == "idle 2", 90)
        yield folder
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)
        os.environ.pop("SLURM_CONF") if kept is None else os.environ.update(SLURM_CONF=kept)


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def in_queue() -> list[str]:
    return said("squeue", "-h", "-o", "%i").split()


def on_slurm(**options) -> Cluster:
    return Cluster("slurm", **{"workers": 2, "memory_gb": 1, "address": "127.0.0.1", **options})


@needs_slurm
def test_stages_give_on_slurm_what_they_give_here(slurm, tmp_path, config):
    """Import and CLAHE by the commands, with --on."""
    grey = np.random.default_rng(0).integers(0, 255, (20, 80, 90), dtype=np.uint8)
    (tmp_path / "planes").mkdir()
    for z, plane in enumerate(grey):
        tifffile.imwrite(tmp_path / "planes" / f"z{z:03}.tif", plane)
    config.write_text('[clusters.slurm]\nworkers = 2\nmemory_gb = 1\naddress = "127.0.0.1"\n')
    for name, on in (("here", []), ("there", ["--on", "slurm"])):
        cell = str(tmp_path / f"{name}.zarr")
        done = asem("import", str(tmp_path / "planes"), "-o", cell, "--voxel-size", "5", "-q", *on)
        assert done.exit_code == 0, done.output
        done = asem("preprocess", cell, "--use", "clahe", "-s", "kernel_vx=[8,32,32]", "-q", "--block", "20,48,48", *on)
        assert done.exit_code == 0, done.output
    for layer in ("raw", "raw_clahe"):
        one, other = (open_volume(tmp_path / f"{name}.zarr" / layer) for name in ("here", "there"))
        assert (one.read() == other.read()).all()
    assert not in_queue()


@needs_slurm
def test_cancelled_jobs_and_lost_nodes_are_replaced(slurm, tmp_path, caplog):
    import threading

    def disturb() -> None:
        wait_for(lambda: len(list(tmp_path.glob("done-*"))) >= 2)
        subprocess.run(["scancel", in_queue()[0]], check=False)
        wait_for(lambda: len(list(tmp_path.glob("done-*"))) >= 8)
        subprocess.run(["scontrol", "update", "nodename=n2", "state=down", "reason=test"], check=False)
        time.sleep(3)
        subprocess.run(["scontrol", "update", "nodename=n2", "state=resume"], check=False)

    troubles = threading.Thread(target=disturb)
    troubles.start()
    run_blocks(
        Slow(tmp_path, 0.7), BOX, 1, Run(progress=False, on=on_slurm(), scratch=tmp_path / "s"), name="disturbed"
    )
    troubles.join()
    assert len(list(tmp_path.glob("done-*"))) == 24
    assert caplog.text.count("and is replaced") >= 2
    assert not in_queue()


@needs_slurm
def test_no_job_is_left_when_a_run_is_killed(slurm, tmp_path):
    kill_a_run("test_clusters", "on_slurm(workers=4)", in_queue, tmp_path)


def kill_a_run(module, profile, in_queue, folder):
    """Start a run of four workers, of which two wait in the queue; kill it: soon no job is there."""
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom pathlib import Path\nfrom {module} import *\n"
        f"folder = Path({str(folder)!r})\n"
        f"run_blocks(Slow(folder, 60), BOX, 1, Run(progress=False, on={profile}, scratch=folder / 's'), name='k')"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    wait_for(lambda: len(list(folder.glob("begun-*"))) >= 2)
    assert len(in_queue()) == 4
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not in_queue(), 60)


@needs_slurm
def test_a_wrong_partition_is_said(slurm, tmp_path):
    wrong = on_slurm(options="-p nowhere")
    with pytest.raises(
        BadInput, match=r"'slurm' cannot start workers: sbatch: .*invalid partition.*asem clusters list"
    ):
        run_blocks(Slow(tmp_path, 0), BOX, 1, Run(progress=False, on=wrong, scratch=tmp_path / "s"), name="w")


@needs_slurm
@pytest.mark.slow
def test_a_time_limit_is_met_by_others_that_go_on(slurm, tmp_path, caplog):
    """Slurm looks at limits every half a minute."""
    limited = on_slurm(options="--time=0:20", workers=1)
    run_blocks(Slow(tmp_path, 4), BOX, 1, Run(progress=False, on=limited, scratch=tmp_path / "s"), name="limited")
    assert len(list(tmp_path.glob("done-*"))) == 24
    assert "reached its time limit and is replaced" in caplog.text
    assert "ended early" not in caplog.text
    assert not in_queue()


@needs_slurm
@pytest.mark.slow
def test_prediction_on_slurm_equals_that_here(slurm, tmp_path, config):
    grey = np.random.default_rng(0).integers(0, 255, (64, 64, 128), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", grey)
    config.write_text('[clusters.slurm]\nworkers = 2\nmemory_gb = 1.9\naddress = "127.0.0.1"\n')
    assert (
        asem(
            "import", str(tmp_path / "stack.tif"), "-o", str(tmp_path / "c.zarr"), "--voxel-size", "10", "-q"
        ).exit_code
        == 0
    )
    made = []
    for name, on in (("here", ["--precision", "float32"]), ("there", ["--on", "slurm"])):
        done = asem(
            "predict", str(tmp_path / "c.zarr/raw"), "--model", "membrane-fibsem-10nm", "--as-is", "--device", "cpu",
            "--block", "64", "-o", str(tmp_path / "c.zarr" / name), "-q", *on,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        made.append(open_volume(tmp_path / "c.zarr" / name).read())
    assert (made[0] == made[1]).all()
    assert not in_queue()
