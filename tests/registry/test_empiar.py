"""Entries of EMPIAR by number, from a server that answers as the archive's two do."""

from __future__ import annotations

import hashlib
import json

import attrs
import pytest
from typer.testing import CliRunner

from asem_core.cli import make_app
from asem_core.errors import BadInput
from asem_registry.empiar import entry_name, list_folder, pull, read_entry, select
from asem_registry.fetch import FetchError, NotThere

NAME = "EMPIAR-11759"
STATED = {
    "title": "Developing retina in zebrafish",
    "status": "REL",
    "entry_doi": "10.6019/EMPIAR-11759",
    "dataset_size": "30.1 GB",
    "citation": [{"title": "A retina.", "year": "2023", "doi": "10.1/x"}],
    "imagesets": [
        {
            "name": "SBF-SEM stack",
            "directory": "data/stack",
            "data_format": "DM3",
            "num_images_or_tilt_series": 3,
            "pixel_width": 100.0,
            "pixel_height": 90.0,
            "details": "Sections of\n50 nm",
        }
    ],
}
FILES = {f"stack/plane {n}.dm3": bytes([n]) * (1500 + n) for n in range(3)} | {"notes.txt": b"read me"}


@pytest.fixture
def archive(server, settings, monkeypatch):
    """An entry's description, its files, and Apache's listings of its folders."""
    server.files[f"/api/{NAME}/"] = json.dumps({NAME: STATED}).encode()
    for name, content in FILES.items():
        server.files[f"/world/11759/data/{name.replace(' ', '%20')}"] = content
    top = '<a href="?C=N;O=D">Name</a> <a href="/world/11759/">Parent Directory</a>\n'
    stack = "".join(
        f'<tr><td><a href="plane%20{n}.dm3">plane {n}.dm3</a></td><td align="right">2023-10-02 11:04  </td>'
        '<td align="right">1.5K</td><td>&nbsp;</td></tr>\n'
        for n in range(3)
    )
    data = '<a href="stack/">stack/</a>  2023-10-02 11:04    -   \n<a href="notes.txt">notes.txt</a>  2023-10-02 11:04    7   \n'
    server.listings = {"/world/11759/data/": top + data, "/world/11759/data/stack/": top + stack}
    monkeypatch.setenv("ASEM_EMPIAR_ENTRIES", server.url("/api"))
    monkeypatch.setenv("ASEM_EMPIAR_FILES", server.url("/world"))
    return attrs.evolve(
        settings, empiar_entries=server.url("/api"), empiar_files=server.url("/world"), first_wait_s=0.01
    )


def test_an_entry_says_what_it_holds(archive):
    """Title, size, licence, what to cite, and image sets with their pixels in nm (the archive states Angstrom)."""
    assert entry_name("empiar-11759") == NAME
    assert entry_name("asem-cell-6") is None
    entry = read_entry(NAME, archive)
    assert entry.size == "30.1 GB"
    assert "CC0 1.0" in entry.terms
    assert entry.terms.endswith(
        "Cite: EMPIAR-11759, https://doi.org/10.6019/EMPIAR-11759; A retina, 2023, https://doi.org/10.1/x."
    )
    (found,) = entry.image_sets
    assert found.pixel_nm == (9.0, 10.0)
    assert found.details == "Sections of 50 nm"


def test_files_are_chosen_by_pattern(archive):
    """Links to other orders and other folders are no files; rounded sizes are read; a folder chooses all in it."""
    entry = read_entry(NAME, archive)
    assert [(f.path, f.about_bytes, f.is_folder) for f in list_folder(entry, "data", archive)] == [
        ("data/stack", None, True),
        ("data/notes.txt", 7, False),
    ]
    stack = select(entry, "data/stack/*.dm3", archive)
    assert [f.path for f in stack] == [f"data/stack/plane {n}.dm3" for n in range(3)]
    assert {f.about_bytes for f in stack} == {1536}
    assert select(entry, "data/stack", archive) == stack
    assert [f.path for f in select(entry, "data/notes.txt", archive)] == ["data/notes.txt"]
    assert len(select(entry, "data/*", archive)) == 4
    with pytest.raises(BadInput, match=r"has no files 'data/stack/\*\.tif'\. In data/stack: data/stack/plane 0\.dm3"):
        select(entry, "data/stack/*.tif", archive)


def test_download_resume_and_sums(archive, server, tmp_path):
    """A broken download keeps what came, says what to do, and goes on from there; whole files are not fetched again."""
    entry = read_entry(NAME, archive)
    files = select(entry, "data/stack/*", archive)
    once = attrs.evolve(archive, attempts=1)
    server.faults.extend(["", "cut 700"])
    with pytest.raises(FetchError, match=r"plane%201\.dm3: .*Run the same command again to resume"):
        pull(entry, files, tmp_path / "retina", once, workers=1, progress=False)
    server.faults.clear()
    server.requests.clear()
    paths = pull(entry, files, tmp_path / "retina", archive, workers=2, progress=False)
    assert [path.read_bytes() for path in paths] == [FILES[f"stack/plane {n}.dm3"] for n in range(3)]
    assert not server.gets("/world/11759/data/stack/plane%200.dm3")
    sums = dict(line.split("  ")[::-1] for line in (tmp_path / "retina" / "SHA256SUMS").read_text().splitlines())
    assert sums == {f"data/{n}": hashlib.sha256(c).hexdigest() for n, c in FILES.items() if n.startswith("stack")}
    assert "CC0 1.0" in (tmp_path / "retina" / "LICENCE.txt").read_text()
    assert json.loads((tmp_path / "retina" / f"{NAME}.json").read_text()) == STATED
    other = attrs.evolve(entry, name="EMPIAR-10001")
    with pytest.raises(BadInput, match="holds EMPIAR-11759. Choose another folder"):
        pull(other, files, tmp_path / "retina", archive, progress=False)


def test_what_can_go_wrong(archive, server):
    """No such entry, an answer of another kind, no network."""
    server.faults.append("404")
    with pytest.raises(NotThere, match="EMPIAR has no entry EMPIAR-99999"):
        read_entry("EMPIAR-99999", archive)
    server.files["/api/EMPIAR-10000/"] = b"<html>moved</html>"
    with pytest.raises(BadInput, match="answered something other than an entry"):
        read_entry("EMPIAR-10000", archive)
    with pytest.raises(FetchError, match="ASEM_OFFLINE is set"):
        read_entry(NAME, attrs.evolve(archive, offline=True))


def test_the_command(archive, tmp_path):
    """Without -o everything is shown, with it downloaded, and the licence is said before."""

    def asem(*words, code=0):
        result = CliRunner().invoke(make_app(), [str(w) for w in words])
        assert result.exit_code == code, result.output
        return result.output

    shown = asem("data", "pull", NAME.lower())
    assert "SBF-SEM stack: 3 DM3 in data/stack, pixels of 9 x 10 nm (y, x). Sections of 50 nm" in shown
    assert "data/stack/" in shown
    assert "CC0 1.0" in shown
    shown = asem("data", "pull", NAME, "data/stack/*.dm3")
    assert "3 files, about 4.61e-06 GB. Licence: CC0" in shown
    assert not (tmp_path / "retina").exists()
    said = asem("data", "pull", NAME, "data/stack/*.dm3", "-o", tmp_path / "retina", "-q")
    assert "--voxel-size Z,9,10" in said
    assert (tmp_path / "retina/data/stack/plane 2.dm3").is_file()
    assert "cannot be used for files of EMPIAR" in asem("data", "pull", NAME, "data/*", "--box", "0:1,0:1,0:1", code=1)
