"""Workers on two machines by `ssh`: network namespaces with an `sshd` each, and no way between them but by this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from asem_core.blocks import Run, run_blocks
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.engine.clusters import Cluster
from asem_core.volume import Box

PROGRAMS = ("sshd", "ssh", "ssh-keygen", "ip")
HERE, HOSTS = "10.77.13.1", ("10.77.13.2", "10.77.13.3")
BOX = Box((0, 0, 0), (16, 1, 1))
SSHD = """
ListenAddress {host}
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/{host}.pid
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
"""


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=check)


def may_make_namespaces() -> bool:
    if not all(shutil.which(p) for p in PROGRAMS) or os.getuid() != 0:
        return False
    return run("unshare", "--net", "true", check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not may_make_namespaces(), reason="needs root, ip and sshd (Debian: apt-get install openssh-server iproute2)"
)


class Slow:
    """Work that notes which machine did a block, and takes a while."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def __call__(self):
        where = Path("/proc/self/ns/net").readlink().name

        def work(box: Box) -> None:
            (self.folder / f"begun-{box.begin[0]}-{os.getpid()}-{where}").touch()
            time.sleep(self.seconds)
            (self.folder / f"done-{box.begin[0]}").touch()

        return work


def wait_for(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two machines on a bridge of this one; gives what `ssh` needs to log in to them."""
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    Path("/run/sshd").mkdir(exist_ok=True)
    bridge, daemons = f"asem{os.getpid()}", []
    names = [f"{bridge}-{i}" for i in range(len(HOSTS))]
    try:
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "address", "add", f"{HERE}/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        for i, (name, host) in enumerate(zip(names, HOSTS, strict=True)):
            plug = f"v{os.getpid()}{i}"
            run("ip", "netns", "add", name)
            run("ip", "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", plug, "master", bridge, "up")
            run("ip", "-n", name, "address", "add", f"{host}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            (folder / f"{host}.conf").write_text(SSHD.format(host=host, folder=folder))
            sshd = ["ip", "netns", "exec", name, shutil.which("sshd") or "", "-D", "-f", str(folder / f"{host}.conf")]
            daemons.append(subprocess.Popen(sshd, stderr=subprocess.DEVNULL))
        known = folder / "known_hosts"
        key = (folder / "host.pub").read_text().rpartition(" ")[0]
        known.write_text("".join(f"{host} {key}\n" for host in HOSTS))
        log_in = f"-i {folder}/key -o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes -o LogLevel=ERROR"
        for host in HOSTS:
            wait_for(lambda host=host: not run("ssh", *shlex.split(log_in), host, "true", check=False).returncode, 20)
        yield log_in
    finally:
        for daemon in daemons:
            daemon.terminate()
        for name in names:
            run("ip", "netns", "delete", name, check=False)
        run("ip", "link", "delete", bridge, check=False)


def on_ssh(options: str, workers: int = 2) -> Cluster:
    return Cluster("desks", "ssh", workers=workers, hosts=HOSTS, options=options, address=HERE)


def test_import_by_two_machines_equals_that_here(options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command, with --on."""
    monkeypatch.setenv("ASEM_CONFIG", str(tmp_path / "config.toml"))
    hosts = str(list(HOSTS)).replace("'", '"')
    (tmp_path / "config.toml").write_text(
        f'[clusters.desks]\nkind = "ssh"\nhosts = {hosts}\noptions = "{options}"\naddress = "{HERE}"\n'
    )
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, (20, 80, 90), dtype=np.uint8))
    made = []
    for name, on in (("here", []), ("there", ["--on", "desks"])):
        words = [
            "import",
            str(tmp_path / "a.tif"),
            "-o",
            str(tmp_path / f"{name}.zarr"),
            "--voxel-size",
            "5",
            "-q",
            *on,
        ]
        done = CliRunner().invoke(make_app(), words)
        assert done.exit_code == 0, done.output
        made.append(open_volume(tmp_path / f"{name}.zarr/raw").read())
    np.testing.assert_array_equal(*made)


def test_a_lost_connection_is_replaced(options: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both machines take part; a worker whose login breaks off is started again."""
    import threading

    def disturb() -> None:
        wait_for(lambda: len(list(tmp_path.glob("done-*"))) >= 2)
        run("pkill", "-f", f"ssh .* {HOSTS[0]} env")

    troubles = threading.Thread(target=disturb)
    troubles.start()
    run_blocks(
        Slow(tmp_path, 0.5), BOX, 1, Run(progress=False, on=on_ssh(options), scratch=tmp_path / "s"), name="disturbed"
    )
    troubles.join()
    assert len(list(tmp_path.glob("done-*"))) == 16
    assert len({p.name.split("-")[3] for p in tmp_path.glob("begun-*")}) == 2
    assert "and is replaced" in caplog.text


def test_no_worker_is_left_when_a_run_is_killed(options: str, tmp_path: Path) -> None:
    """Killed with its group: the logins end, and what they started."""
    program = (
        "import sys; sys.path.insert(0, {0!r})\nfrom pathlib import Path\nfrom test_ssh import *\n"
        "run_blocks(Slow(Path({1!r}), 60), BOX, 1, Run(progress=False, on=on_ssh({2!r}), scratch=Path({1!r}) / 's'), name='k')"
    ).format(str(Path(__file__).parent), str(tmp_path), options)
    parent = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    wait_for(lambda: len(list(tmp_path.glob("begun-*"))) >= 2)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    workers = [int(p.name.split("-")[2]) for p in tmp_path.glob("begun-*")]
    wait_for(lambda: not any(Path(f"/proc/{w}").exists() for w in workers), 20)
