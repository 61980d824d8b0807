"""Real servers on loopback: a file server with ranges and scripted faults, and an S3 server."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest

from asem_registry.card import Card, card_toml
from asem_registry.settings import Settings


class FileServer(ThreadingHTTPServer):
    """Serves `files`; each request for bytes first meets the next of `faults`.

    A fault is a status ("503"), "reset" (the connection breaks), "cut N" (breaks after N bytes), or "wait S".
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.listings: dict[str, str] = {}  # of folders; else links to the files in them
        self.faults: deque[str] = deque()
        self.requests: list[tuple[str, str, str]] = []  # method, path, range
        self.ranges = True
        self.lengths = True
        self.heads = True

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def gets(self, path: str) -> list[str]:
        """List the ranges asked of a path."""
        return [r for method, p, r in self.requests if method == "GET" and p == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range", "")))
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        fault = self.server.faults.popleft() if body and self.server.faults else ""
        if fault.isdecimal():
            self.send_error(int(fault))
            return
        if fault == "reset":
            self._break()
            return
        if fault.startswith("wait"):
            time.sleep(float(fault.split()[1]))
        data = self._content()
        if data is None:
            self.send_error(404)
            return
        begin, end = self._range(len(data))
        piece = data[begin:end]
        self.send_response(206 if len(piece) < len(data) else 200)
        if self.server.lengths:
            self.send_header("Content-Length", str(len(piece)))
        else:
            self.send_header("Connection", "close")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:12]}"')
        if self.path.endswith("/"):
            self.send_header("Content-Type", "text/html")
        if self.server.ranges and self.server.lengths:
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        if fault.startswith("cut"):
            self.wfile.write(piece[: int(fault.split()[1])])
            self.wfile.flush()
            self._break()
            return
        self.wfile.write(piece)

    def _content(self) -> bytes | None:
        if self.path in self.server.listings:
            return self.server.listings[self.path].encode()
        if self.path.endswith("/") and self.path not in self.server.files:
            inside = [p for p in self.server.files if p.startswith(self.path)]
            return "".join(f'<a href="{p.removeprefix(self.path)}">file</a>\n' for p in inside).encode()
        return self.server.files.get(self.path)

    def _range(self, size: int) -> tuple[int, int]:
        match = None
        if self.server.ranges and self.server.lengths:
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (int(match[1]), min(int(match[2]) + 1, size)) if match else (0, size)

    def _break(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        self.wfile = open("/dev/null", "wb")  # noqa: SIM115 - what the base class still flushes goes nowhere

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class TlsServer(FileServer):
    """The same over https, with a certificate that nobody but a test trusts."""

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__()
        self.certificate = certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def url(self, path: str) -> str:
        return super().url(path).replace("http:", "https:")

    def handle_error(self, *_: Any) -> None:
        """Be silent about clients that hang up because they do not trust us."""


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[TlsServer]:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    _write_certificate(certificate, key)
    with TlsServer(certificate, key) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _write_certificate(certificate: Path, key: Path) -> None:
    """Write a self-signed certificate of 127.0.0.1 that is good for an hour."""
    pytest.importorskip("cryptography", reason="pip install cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache", home=tmp_path / "home", first_wait_s=0.01)


@pytest.fixture
def make_card() -> Callable[..., Card]:
    """Make a card of a small mitochondria network; keywords override."""

    def make(**values: Any) -> Card:
        about = {
            "name": "small-1nm",
            "model": "mitochondria",
            "options": {"features": 2, "factors": [[2, 2, 2]]},
            "voxel_size_nm": (1.0, 1.0, 1.0),
            "preparation": "none",
            "contrast": "any",
            "training_data": "none: random weights",
            "licence": "CC0-1.0",
            "citation": "none",
        }
        return Card(**{**about, **values})

    return make


@pytest.fixture(scope="session")
def weights_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Weights of the network of `make_card`, as safetensors."""
    import torch

    from asem_core.weights import save_weights
    from asem_models.mitochondria import Mitochondria

    torch.manual_seed(0)
    model = Mitochondria(features=2, factors=((2, 2, 2),))
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    return save_weights(path, model.network(), {"model": {"use": "mitochondria", "features": 2}}).read_bytes()


@pytest.fixture
def sum_of() -> Callable[[bytes], str]:
    return lambda data: hashlib.sha256(data).hexdigest()


@pytest.fixture
def add_card(settings: Settings) -> Callable[[Card], Card]:
    """Put a card into the user's own folder of cards, so that it is found by name."""

    def add(card: Card) -> Card:
        path = settings.home / "cards" / f"{card.key}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(card_toml(card))
        return attrs.evolve(card, origin=str(path))

    return add
