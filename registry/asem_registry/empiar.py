"""Entries of EMPIAR, the archive of raw electron microscopy images, by number: what they hold, and files of them over https.

An entry is described by the archive's REST interface (https://www.ebi.ac.uk/empiar/api/), and its files are listed by a web server.
Neither publishes checksums, so the sums of what came are written beside it.
"""

from __future__ import annotations

import fnmatch
import html
import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any
from urllib.parse import quote, unquote

import attrs

from asem_core.errors import BadInput
from asem_core.files import sha256
from asem_core.temporary import write_whole
from asem_registry.fetch import FetchError, NotThere, check_room, fetch, put, read_page
from asem_registry.settings import Settings

LICENCE = "CC0 1.0, as EMPIAR states for all of its entries"
SUMS = "SHA256SUMS"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
LARGEST_LIST = 200_000  # files of one selection


@attrs.frozen
class ImageSet:
    """Images of one kind in an entry, as its depositors describe them."""

    name: str
    folder: str
    data_format: str
    num_images: int | None
    pixel_nm: tuple[float, float] | None  # y, x
    details: str


@attrs.frozen
class Entry:
    """What the archive says of an entry."""

    name: str  # EMPIAR-11759
    title: str
    doi: str
    size: str  # as stated: "1.2 TB"
    citations: Sequence[str]
    image_sets: Sequence[ImageSet]
    stated: dict[str, Any] = attrs.field(repr=False)

    @property
    def number(self) -> str:
        return self.name.rpartition("-")[2]

    @property
    def terms(self) -> str:
        """Say the licence and what to cite, in one line."""
        cited = [f"{self.name}, https://doi.org/{self.doi}" if self.doi else self.name, *self.citations]
        return f"Licence: {LICENCE}. Cite: {'; '.join(cited)}."


@attrs.frozen
class File:
    """A file of an entry, with the size that its listing shows (rounded), or a folder."""

    path: str  # from the entry's top: data/stack/0001.tif
    about_bytes: int | None = None
    is_folder: bool = False


def entry_name(text: str) -> str | None:
    """Read the name of an entry, `EMPIAR-11759`, in any case of letters; None if the text is something else."""
    match = re.fullmatch(r"EMPIAR-(\d{5,})", text, re.IGNORECASE)
    return f"EMPIAR-{match[1]}" if match else None


def read_entry(name: str, settings: Settings) -> Entry:
    """Ask the archive what an entry is.

    Raises
    ------
    FetchError
        There is no such entry, or the archive does not answer.
    BadInput
        Its answer is not one.
    """
    address = f"{settings.empiar_entries}/{name}/"
    _require_network(name, address, settings)
    try:
        text = read_page(address, settings)
    except NotThere:
        raise NotThere(f"EMPIAR has no entry {name} ({address}). Check its number.") from None
    try:
        answer = json.loads(text)
        stated = answer[name]
        return Entry(
            name,
            str(stated.get("title") or ""),
            str(stated.get("entry_doi") or ""),
            str(stated.get("dataset_size") or "not stated"),
            [c for c in map(_citation, stated.get("citation") or ()) if c],
            [_image_set(found) for found in stated.get("imagesets") or ()],
            stated,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{address} answered something other than an entry ({type(error).__name__}: {error}). Has the archive's interface changed?"
        ) from None


def _citation(found: dict[str, Any]) -> str:
    doi = found.get("doi")
    words = [
        str(found.get("title") or "").rstrip("."),
        str(found.get("year") or ""),
        f"https://doi.org/{doi}" if doi else "",
    ]
    return ", ".join(word for word in words if word)


def _image_set(found: dict[str, Any]) -> ImageSet:
    pixel = [found.get("pixel_height"), found.get("pixel_width")]  # in Angstrom
    sizes = [float(p) / 10 for p in pixel if p]
    count = found.get("num_images_or_tilt_series")
    return ImageSet(
        str(found.get("name") or ""),
        str(found.get("directory") or "").strip("/"),
        str(found.get("data_format") or ""),
        None if count is None else int(count),
        (sizes[0], sizes[1]) if len(sizes) == 2 else None,
        " ".join(str(found.get("details") or "").split()),
    )


def list_folder(entry: Entry, folder: str, settings: Settings) -> list[File]:
    """List the files and folders in a folder of an entry.

    Raises
    ------
    FetchError
    """
    address = f"{settings.empiar_files}/{entry.number}/{quote(folder)}".rstrip("/") + "/"
    _require_network(entry.name, address, settings)
    prefix = f"{folder}/" if folder else ""
    return [attrs.evolve(found, path=prefix + found.path) for found in _read_index(read_page(address, settings))]


def select(entry: Entry, pattern: str, settings: Settings) -> list[File]:
    """List the files of an entry that a pattern chooses: `data/stack/*.tif`; a folder chooses all in it.

    Raises
    ------
    FetchError
    BadInput
        It chooses none, or so many that they are better taken in parts.
    """
    pattern = pattern.strip("/")
    parts = PurePosixPath(pattern).parts
    fixed = [part for n, part in enumerate(parts) if not any(set("*?[") & set(p) for p in parts[: n + 1])]
    if len(fixed) == len(parts):  # no wildcard: a file, or a folder
        start = "/".join(parts[:-1])
        if parts and not any(f.path == pattern and not f.is_folder for f in list_folder(entry, start, settings)):
            start, pattern = pattern, f"{pattern}/*"
        elif not parts:
            pattern = "*"
    else:
        start = "/".join(fixed)
    found: list[File] = []
    folders = [start]
    while folders:
        for file in list_folder(entry, folders.pop(), settings):
            if file.is_folder:
                folders.append(file.path)
            elif fnmatch.fnmatchcase(file.path, pattern):
                found.append(file)
        if len(found) > LARGEST_LIST:
            raise BadInput(
                f"{entry.name}: '{pattern}' chooses more than {LARGEST_LIST:,} files. Choose a folder at a time."
            )
    if not found:
        there = ", ".join(f.path for f in list_folder(entry, start, settings)[:10]) or "nothing"
        raise BadInput(f"{entry.name} has no files '{pattern}'. In {start or 'it'}: {there}.")
    return sorted(found, key=lambda file: file.path)


def pull(
    entry: Entry, files: Sequence[File], output: Path, settings: Settings, *, workers: int = 4, progress: bool = True
) -> list[Path]:
    """Download files of an entry into a folder, with the folders they lie in; those that came before are not fetched again.

    Beside them: what the archive says of the entry, its licence and what to cite (LICENCE.txt), and the sums of what came
    (SHA256SUMS, for `sha256sum --check`).

    Raises
    ------
    FetchError, NoSpace
    BadInput
        The folder holds another entry.
    """
    output.mkdir(parents=True, exist_ok=True)
    _describe(entry, output)
    sums = _Sums.of(output / SUMS)
    wanted = [file for file in files if not ((output / file.path).is_file() and file.path in sums.known)]
    check_room(output, sum(file.about_bytes or 0 for file in wanted))

    def bring(file: File) -> None:
        target = output / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        address = f"{settings.empiar_files}/{entry.number}/{quote(file.path)}"
        try:
            fetch(address, part, settings, size=None, progress=False)
        except FetchError as error:
            raise type(error)(f"{address}: {error}. Run the same command again to resume.") from None
        found = sha256(part)
        put(part, target)
        sums.add(file.path, found)

    from asem_core.progress import open_bar, times

    with (
        ThreadPoolExecutor(workers) as pool,
        open_bar(entry.name, lambda task: f"{task.completed}/{task.total} files {times(task)}", shown=progress) as bar,
    ):
        task = bar.add_task("", total=len(wanted))
        tasks = [pool.submit(bring, file) for file in wanted]
        try:
            for done in tasks:
                done.result()
                bar.advance(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [output / file.path for file in files]


def _describe(entry: Entry, output: Path) -> None:
    about = output / f"{entry.name}.json"
    others = [path.stem for path in output.glob("EMPIAR-*.json") if path != about]
    if others:
        raise BadInput(f"{output} holds {others[0]}. Choose another folder for {entry.name}.")
    with write_whole(about) as half:
        half.write_text(json.dumps(entry.stated, indent=1), encoding="utf-8")
    with write_whole(output / "LICENCE.txt") as half:
        half.write_text(f"{entry.title}\n{entry.terms}\n", encoding="utf-8")


@attrs.define
class _Sums:
    """The file of sums of what came, by path; a line is added when its file is in its place."""

    file: Path
    known: dict[str, str]
    lock: Lock = attrs.field(factory=Lock)

    @classmethod
    def of(cls, file: Path) -> _Sums:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a line that was cut off
            with write_whole(file) as half:
                half.write_text(whole, encoding="utf-8", newline="\n")
        return cls(file, {path: found for found, _, path in (line.partition("  ") for line in whole.splitlines())})

    def add(self, path: str, found: str) -> None:
        with self.lock:
            self.known[path] = found
            with self.file.open("a", encoding="utf-8", newline="\n") as file:
                file.write(f"{found}  {path}\n")


def _read_index(page: str) -> list[File]:
    """Read a web server's listing of a folder: links, and the sizes beside them."""
    rows = re.split(r"<a\s+[^>]*href=", page, flags=re.IGNORECASE)[1:]
    found = []
    for row in rows:
        match = re.match(r"""["']([^"'?#]+)["']""", row)  # with "?": the same folder in another order
        link = html.unescape(match[1]).removeprefix("./") if match else ""
        is_folder, name = link.endswith("/"), unquote(link.rstrip("/"))
        if not name or link.startswith("/") or name in (".", "..") or re.search(r"[/\\\0]", name):
            continue  # the folder above, another place
        rest = re.sub(r"<[^>]*>", " ", row.partition("</a>")[2])
        sizes = re.findall(r"(?<![\w:.-])(\d+(?:\.\d+)?)([KMGTP]?)(?![\w:.-])", rest)
        size = None if is_folder or not sizes else round(float(sizes[-1][0]) * _UNITS[sizes[-1][1]])
        found.append(File(name, size, is_folder))
    return list({file.path: file for file in found}.values())


def total_bytes(files: Iterable[File]) -> int | None:
    """Add the sizes that the listing shows; None if it shows not all."""
    sizes = [file.about_bytes for file in files]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _require_network(name: str, address: str, settings: Settings) -> None:
    if settings.offline:
        raise FetchError(f"{name} lies at {address}, and ASEM_OFFLINE is set. Unset it to read there.")
