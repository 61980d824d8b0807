"""Tables of text, as editors and spreadsheets of any language write them: read right, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from asem_core.errors import BadInput
from asem_core.tables import read_table

PLAIN = "class,z,y,x\nobject,1.5,20,3\nbackground,4,5,6.25\n"
TABBED = PLAIN.replace(",", "\t")
GERMAN = PLAIN.replace(",", ";").replace(".", ",")
TABBED_GERMAN = TABBED.replace(".", ",")


@pytest.mark.parametrize(
    "text", [PLAIN, TABBED, GERMAN, TABBED_GERMAN, "sep=;\n" + GERMAN, PLAIN.replace("\n", "\r\n"), PLAIN + ",,,\n\n"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_read(tmp_path: Path, text: str, encoding: str) -> None:
    """The same numbers, whatever separates them and whatever the text is encoded in."""
    file = tmp_path / "strokes.csv"
    file.write_bytes(text.encode(encoding))
    rows = read_table(file, ["class", "z"])
    assert [row.text("class") for row in rows] == ["object", "background"]
    assert [[row.number(axis) for axis in "zyx"] for row in rows] == [[1.5, 20, 3], [4, 5, 6.25]]
    assert rows[0].number("radius", 2.0) == 2.0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "cp1252"])
def test_letters_of_other_languages(tmp_path: Path, encoding: str) -> None:
    """Names of columns and values keep their letters; UTF-16 has a mark."""
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    (tmp_path / "a.csv").write_bytes((mark + "Größe;Maß\nübergroß;1,5\n").encode(encoding))
    (row,) = read_table(tmp_path / "a.csv", ["Größe"])
    assert (row.text("Größe"), row.number("Maß")) == ("übergroß", 1.5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no columns; it needs class"),
        (b"kind,z\nobject,1\n", "has the columns kind, z; it needs class"),
        (b"class,z,z\nobject,1,2\n", "has two columns 'z'"),
        (b"class,z\nobject\n", "line 2: there are 1 values for the columns class, z"),
        (b"class,z\nobject,1,2\n", "line 2: there are 3 values for the columns class, z"),
        (b"class,z\n\nobject,one\n", "line 3: 'one' in the column z is not a number"),
        (b"class,z\nobject,nan\n", "line 2: 'nan' in the column z is not a number"),
        (b"class,z\nobject,inf\n", "line 2: 'inf' in the column z is not a number"),
        (b"class,z\nobject,\n", "line 2: '' in the column z is not a number"),
        (b"class;z\nobject;1.234,5\n", "line 2: '1.234,5' in the column z is not a number"),
        (b"class\tz\nobject\t1,234\n", "may be a decimal comma or a thousands separator"),
        ("class,z\nobject,1\n".encode("utf-16-le"), "cannot be read as a text table"),
        (b"class,z\nobject\x81,1\n", "cannot be read as a text table"),
        (b"\x89PNG\r\n\x1a\n\0\0", "cannot be read as a text table"),
        (b"class,z\n" + b"a" * 200_000 + b",1\n", "field larger than field limit"),
    ],
)
def test_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Whatever it is, one sentence names the file, and the line where there is one."""
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(BadInput, match=message) as refused:
        for row in read_table(tmp_path / "a.csv", ["class"]):
            row.number("z")
    assert str(tmp_path / "a.csv") in str(refused.value)


def test_no_file(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(BadInput, match=r"There is no file .*gone\.csv"):
        read_table(tmp_path / "gone.csv")
