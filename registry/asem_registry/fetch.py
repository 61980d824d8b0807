"""Bring a file from afar: resumed by byte ranges, tried again after faults that may pass.

fsspec speaks the protocols (https, s3 and, on this machine, file). Nothing here trusts what it receives: the caller
checks the sum before the file gets its final name.
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import importlib.util
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urljoin, urlsplit

import attrs

from asem_core.errors import AsemError, MissingExtra, NoSpace
from asem_registry.settings import Settings

T = TypeVar("T")

PIECE_BYTES = 4 << 20
LARGEST_UNSIZED = 4_000_000_000  # bytes of a file whose length neither card nor server states
_SPARE_BYTES = 64 << 20  # left free on the disk for everybody else


class FetchError(AsemError):
    """A file could not be fetched from an address."""


class NotThere(FetchError):
    """A server answers, but does not have the file."""


class Refused(AsemError):
    """An address leads somewhere that the registry does not follow."""


class _Passing(Exception):
    """A fault that may pass: worth another attempt."""


@attrs.frozen
class Remote:
    """One file on one server, with what tells it from another version of itself."""

    fs: Any
    path: str
    url: str
    size: int | None
    mark: str  # entity tag or date of change; empty if the server tells neither


def fetch(url: str, part: Path, settings: Settings, *, size: int | None, progress: bool = True) -> str:
    """Fetch a file into `part`, and return the address it was found at (`*` filled in).

    `part` may hold the beginning of the file from an earlier, cut attempt (with a note beside it of what it is the
    beginning of): then only the rest is fetched.

    Raises
    ------
    FetchError
        The address does not answer, does not have the file, or has one of another size.
    Refused
        The address leads to something other than http(s).
    NoSpace
        The disk is full, or would be.
    """
    try:
        remote = _retry(lambda: _find(url, settings), settings)
        if size is not None and remote.size not in (None, size):
            raise FetchError(f"wrong size: expected {size} bytes, as the card says, but the server has {remote.size}")
        _download(remote, part, settings, size if remote.size is None else remote.size, progress)
    except _Passing as error:
        raise FetchError(str(error)) from None
    return remote.url


def put(part: Path, target: Path) -> None:
    """Give a file that `fetch` brought another name: it is no `write_whole`, as a part that was cut stays, to go on with it."""
    os.replace(part, target)


def read_texts(address: str, suffix: str, settings: Settings, limit_bytes: int = 1 << 20) -> dict[str, str]:
    """Read a small text file, or every one with this suffix in a folder; the result is by address.

    Raises
    ------
    FetchError, Refused
    """
    fs, path = _filesystem(address, settings)

    def read() -> dict[str, str]:
        with _explained(address):
            paths = [path] if path.endswith(suffix) else [p for p in fs.ls(path, detail=False) if p.endswith(suffix)]
            return {p: fs.cat_file(p, start=0, end=limit_bytes).decode("utf-8") for p in sorted(paths)}

    try:
        texts = _retry(read, attrs.evolve(settings, attempts=min(2, settings.attempts)))
    except _Passing as error:
        raise FetchError(str(error)) from None
    except UnicodeDecodeError:
        raise FetchError(f"{address} holds a {suffix} file that is not UTF-8 text.") from None
    if not texts:
        raise FetchError(f"{address} lists no {suffix} files. Name the file itself, or check the address.")
    return texts


def read_text(address: str, settings: Settings) -> str:
    """Read one small text file.

    Raises
    ------
    FetchError, NotThere, Refused
    """
    (text,) = read_texts(address, "." + address.rpartition(".")[2], settings).values()
    return text


def read_page(address: str, settings: Settings) -> str:
    """Read what a web server answers at an address, as text; a folder's listing may be long.

    Raises
    ------
    FetchError, NotThere, Refused
    """
    fs, path = _filesystem(address, settings)
    try:
        content: bytes = _retry(functools.partial(_read, Remote(fs, path, address, None, ""), 0, None, None), settings)
    except _Passing as error:
        raise FetchError(str(error)) from None
    return content.decode("utf-8", errors="replace")


def listing(address: str, settings: Settings) -> list[str]:
    """List what matches an `s3://bucket/prefix/name*` address, anonymously, as addresses.

    Raises
    ------
    FetchError, Refused, MissingExtra
    """
    fs, path = _filesystem(address, settings)
    folder, _, pattern = path.rstrip("/").rpartition("/")

    def look() -> list[str]:
        with _explained(address):
            return [p for p in fs.ls(folder, detail=False) if fnmatch.fnmatchcase(p.rsplit("/", 1)[-1], pattern)]

    try:
        return [f"{address.partition('://')[0]}://{p}" for p in sorted(_retry(look, settings))]
    except _Passing as error:
        raise FetchError(str(error)) from None


def _filesystem(url: str, settings: Settings) -> tuple[Any, str]:
    """Open the file system an address lives on, without remembered listings and, unless asked for, without credentials."""
    import fsspec

    scheme = urlsplit(url).scheme
    if scheme == "hf":  # hf://owner/repository/path, at its main branch
        owner, repository, path = url.removeprefix("hf://").split("/", 2)
        url, scheme = f"https://huggingface.co/{owner}/{repository}/resolve/main/{path}", "https"
    if scheme in ("http", "https"):
        return fsspec.filesystem("http", client_kwargs=_http_client(), skip_instance_cache=True), url
    if scheme == "s3":
        return open_s3(url, settings, signed=settings.s3_signed), url.removeprefix("s3://")
    if scheme == "file":
        return fsspec.filesystem("file"), urlsplit(url).path
    raise Refused(f"{url} is refused: its scheme is '{scheme}'; https, http, s3, hf and file are read.")


def open_s3(url: str, settings: Settings, *, signed: bool) -> Any:
    """Open the file system of an s3:// address, with the user's credentials if `signed`.

    Raises
    ------
    MissingExtra
    """
    import fsspec

    require_s3(url)
    fs = fsspec.filesystem(
        "s3",
        anon=not signed,
        endpoint_url=settings.s3_endpoint,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={"connect_timeout": 15, "read_timeout": 30, "retries": {"max_attempts": 1}},
    )
    fs.retries = 1  # we try again ourselves, and say so
    return fs


def require_s3(url: str) -> None:
    """Check that what reads s3:// is installed.

    Raises
    ------
    MissingExtra
    """
    if importlib.util.find_spec("s3fs") is None:
        raise MissingExtra.of("s3", f"{url} needs s3fs")


def _http_client() -> dict[str, Any]:
    import aiohttp

    async def check(_session: Any, _context: Any, params: aiohttp.TraceRequestRedirectParams) -> None:
        target = urljoin(str(params.url), params.response.headers.get("Location", ""))
        scheme = urlsplit(target).scheme
        if scheme not in ("http", "https") or (params.url.scheme == "https" and scheme == "http"):
            raise Refused(
                f"{params.url} redirects to {target}: refused, because only http(s) is followed, and never from https to http. "
                "Correct the card, or ask whoever runs that server."
            )

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=30)
    return {"trace_configs": [trace], "timeout": timeout, "trust_env": True}


def _find(url: str, settings: Settings) -> Remote:
    fs, path = _filesystem(url, settings)
    if "*" in path:
        found = listing(url, settings)
        if len(found) != 1:
            names = f": {', '.join(found)}" if found else ""
            raise FetchError(f"expected one file to match, found {len(found)}{names}")
        url = found[0]
        path = url.removeprefix("s3://")
    with _explained(url):
        info = fs.info(path)
    mark = info.get("ETag") or info.get("LastModified") or info.get("mtime") or ""
    return Remote(fs, path, url, info.get("size"), str(mark))


def _download(remote: Remote, part: Path, settings: Settings, size: int | None, progress: bool) -> None:
    note = _note_of(part)
    about = {"url": remote.url, "size": size, "mark": remote.mark}
    done = part.stat().st_size if part.exists() else 0
    known = _read_note(note) == about and remote.mark != "" and size is not None and done <= size
    if not known:
        part.unlink(missing_ok=True)
        done = 0
    check_room(part.parent, (size or 0) - done)
    with room(part, size), _bar(remote.url, size, done, progress) as advance:
        note.write_text(json.dumps(about), encoding="utf-8")
        with part.open("ab") as file:
            while size is None or done < size:
                if size is None:
                    _fetch_unsized(remote, file, settings)
                    break
                end = min(done + PIECE_BYTES, size)
                piece = _retry(functools.partial(_read, remote, done, end, size), settings)
                if len(piece) == size and done > 0:  # a server without ranges sends the whole file each time
                    piece = piece[done:]
                file.write(piece)
                done += len(piece)
                advance(len(piece))
            file.flush()
            os.fsync(file.fileno())
    after = _retry(lambda: _find(remote.url, settings), settings)
    if after.mark != remote.mark or after.size != remote.size:
        part.unlink()
        raise FetchError("the file changed on the server during the download; the part downloaded was deleted")
    note.unlink()


def _fetch_unsized(remote: Remote, file: IO[bytes], settings: Settings) -> None:
    """Read a file whose length nobody states, piece by piece, up to what the disk has room for and `LARGEST_UNSIZED`.

    What came of it is dropped if that fails, as nobody could tell what is missing.
    """
    done = 0
    try:
        with _explained(remote.url), remote.fs.open(remote.path, "rb", block_size=0) as source:
            while piece := source.read(1 << 20):
                done += len(piece)
                if done > LARGEST_UNSIZED:
                    raise FetchError(
                        f"the server states no length and sent more than {LARGEST_UNSIZED / 1e9:.0f} GB; a card that states "
                        "the size allows more"
                    )
                file.write(piece)
    except BaseException:
        file.truncate(0)
        raise


def _read(remote: Remote, begin: int, end: int | None, size: int | None) -> bytes:
    with _explained(remote.url):
        piece: bytes = (
            remote.fs.cat_file(remote.path) if end is None else remote.fs.cat_file(remote.path, start=begin, end=end)
        )
    if end is not None and len(piece) not in (end - begin, size):
        raise _Passing(f"sent {len(piece)} bytes where {end - begin} were asked for")
    return piece


def _retry(act: Callable[[], T], settings: Settings) -> T:
    for attempt in range(settings.attempts):
        try:
            return act()
        except _Passing as error:
            if attempt + 1 == settings.attempts:
                raise _Passing(f"{error} (tried {settings.attempts} times)") from None
            time.sleep(settings.first_wait_s * 2**attempt)
    raise AssertionError("attempts is at least 1")


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Sort what a server's client raises into faults that may pass and faults that will not."""
    try:
        yield
    except (AsemError, _Passing):
        raise
    except (TypeError, AttributeError, ImportError):
        raise  # a fault of ours
    except Exception as error:  # fsspec's file systems each raise their own kind
        raise _sorted(error, url) from None


@contextmanager
def explained_once(url: str) -> Iterator[None]:
    """Turn what a server's client raises into sentences, where nothing is tried again.

    Raises
    ------
    FetchError, NotThere, Refused
    """
    try:
        with _explained(url):
            yield
    except _Passing as error:
        raise FetchError(f"{url}: {error}") from None
    except NotThere:
        raise
    except FetchError as error:
        raise type(error)(f"{url}: {error}") from None


_OFFLINE = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "gaierror",
)


def _sorted(error: BaseException, url: str) -> Exception:
    import ssl

    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return _sorted(error.__cause__, url)  # fsspec calls everything that goes wrong with http "not found"
    if isinstance(error, Refused):
        return error
    if type(error).__name__ in ("NonHttpUrlRedirectClientError", "InvalidUrlRedirectClientError"):
        return Refused(f"{url} redirects to an address that is not http(s) ({error}): refused.")
    if isinstance(error, ssl.CertificateError):
        return FetchError(f"{error}; if your network has its own certificate, give its file in SSL_CERT_FILE")
    status = getattr(error, "status", None) or _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return NotThere("there is no such file (404)")
    if isinstance(error, PermissionError):
        return FetchError("the server denies access (403)")
    if status is not None and status < 500 and status not in (408, 425, 429):
        return FetchError(f"the server answered {status}")
    if type(error).__name__ in _OFFLINE:
        return _Passing(f"the server cannot be reached: is this computer online? ({type(error).__name__}: {error})")
    return _Passing(f"the server answered {status}" if status else f"{type(error).__name__}: {error}".strip(": "))


def _status(error: BaseException) -> int | None:
    """Take the HTTP status out of an error of botocore, or of the OSError that s3fs makes of it."""
    cause = error if hasattr(error, "response") else error.__cause__
    response = getattr(cause, "response", None)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    return int(status) if isinstance(status, int) and status >= 400 else None


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises
    ------
    NoSpace
    """
    free = shutil.disk_usage(folder).free
    if needed_bytes and needed_bytes + min(_SPARE_BYTES, needed_bytes) > free:
        raise NoSpace(_no_space(folder, f"{needed_bytes:,} more bytes are needed and {free:,} are free"))


@contextmanager
def room(part: Path, size: int | None) -> Iterator[None]:
    """Delete `part`, and say how much room is needed, if the disk fills up on the way."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        for file in (part, _note_of(part)):
            file.unlink(missing_ok=True)
        needed = "" if size is None else f", {size:,} bytes are needed"
        raise NoSpace(_no_space(part.parent, f"{error.strerror}{needed}; the part downloaded was deleted")) from None


def _no_space(folder: Path, why: str) -> str:
    return f"No space in {folder}: {why}. Free some space, then run the same command again."


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(note: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def _bar(url: str, size: int | None, done: int, show: bool) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda _: None
        return
    from asem_core.progress import open_bar, rate_of, times

    def numbers(task: Any) -> str:
        rate = rate_of(task.speed, "B") if task.speed else ""
        of = f"/{task.total / 1e6:.1f}" if task.total else ""
        return " ".join(filter(None, (f"{task.completed / 1e6:.1f}{of} MB", rate, times(task))))

    with open_bar(re.split(r"[/\\]", url)[-1], numbers) as bar:
        task = bar.add_task("", total=size, completed=done)
        yield lambda n: bar.update(task, advance=n)
