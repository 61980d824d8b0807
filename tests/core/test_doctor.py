"""What to paste into a report of a problem."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asem_core.cli import make_app
from asem_core.cli.doctor import note_crash


def test_the_doctor_tells_what_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions, cores, memory, disk, devices, packages and plugins, in text without colours."""
    monkeypatch.setenv("ASEM_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(make_app(), ["doctor", "-o", str(tmp_path / "told.txt")])
    assert done.exit_code == 0, done.output
    told = (tmp_path / "told.txt").read_text()
    for wanted in (
        r"^asem \d", r"^Python 3\.\d+", r"^\d+ cores, [\d.]+ GB of memory, [\d.]+ GB free$", r"^torch \d",
        r"^packages: attrs \d", r"^optional view: ", r"^\d+ plugins", r"^cache of models: .*cache, [\d.]+ GB free$",
        r"^environment: .*ASEM_CACHE=",
    ):  # fmt: skip
        assert re.search(wanted, told, re.M), (wanted, told)
    assert str(Path.home()) + "/" not in told


def test_an_unexpected_error_leaves_its_traceback_in_a_file() -> None:
    """A person sees one sentence with the file; the file holds what a developer needs."""
    program = (
        "import sys; sys.argv = ['asem', 'plugins', 'list']\n"
        "import asem_core.cli.plugins as p, asem_core.catalog as c\n"
        "c.load_catalog = None\n"
        "from asem_core.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (name,) = re.findall(r"Its traceback is in (\S+\.txt): please report it with that file", done.stderr)
    text = Path(name).read_text()
    Path(name).unlink()
    assert "asem plugins list" in text
    assert "Traceback" in text


def test_where_nothing_can_be_written_the_traceback_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Better a long message than none."""

    def fails(**_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("tempfile.mkstemp", fails)
    assert "ValueError: odd" in note_crash(ValueError("odd"))
