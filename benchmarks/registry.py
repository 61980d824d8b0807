"""How fast names answer, and what checking costs: `asem models list`, a pull over loopback, and the check on every load.

References, measured in the same run and interleaved: an empty Python process; urllib's plain download of the same bytes, unchecked;
reading the safetensors file without a check.

    python benchmarks/registry.py
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs
from _data import hardware

REPEATS = 7


def main() -> None:
    list_models = [sys.executable, "-m", "asem_core", "models", "list"]
    compare(
        "asem models list (whole process)",
        lambda: subprocess.run(list_models, check=True, capture_output=True),
        "python -c pass",
        lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
    )
    with tempfile.TemporaryDirectory() as folder:
        compare_pull(Path(folder))
    print(f"{hardware()}; load {os.getloadavg()[0]:.0f}")


def compare_pull(folder: Path) -> None:
    from asem_core.weights import load_weights, save_weights
    from asem_models.mitochondria import Mitochondria
    from asem_registry.cache import obtain, remove
    from asem_registry.card import Card
    from asem_registry.settings import Settings

    model = Mitochondria()
    data = save_weights(folder / "w.safetensors", model.network(), {"model": {"use": "mitochondria"}}).read_bytes()
    settings = Settings(cache=folder / "cache", home=folder / "home")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(data)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/w.safetensors"
        words = dict.fromkeys(("preparation", "contrast", "training_data", "licence", "citation"), "none")
        card = Card("bench", "mitochondria", voxel_size_nm=(5, 5, 5), **words)
        card = attrs.evolve(card, urls=(url,), sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))

        def pull() -> None:
            remove(card, settings, forget=True)
            obtain(card, settings, progress=False)

        pull()  # imports
        size = f"{len(data) / 1e6:.1f} MB"
        compare(f"pull {size}, checked and moved", pull, "urllib, unchecked", lambda: urllib.request.urlretrieve(url))
        weights = obtain(card, settings)
        network = model.network()
        compare(
            f"use a cached model: check {size} and load",
            lambda: load_weights(obtain(card, settings), network),
            "load alone",
            lambda: load_weights(weights, network),
        )
        server.shutdown()


def handler(data: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(data)

        def answer(self, body: bytes) -> None:
            wanted = self.headers.get("Range", "")
            begin, end = (int(v) for v in wanted.removeprefix("bytes=").split("-")) if wanted else (0, len(data) - 1)
            piece = body[begin : end + 1]
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(piece) if body else len(data)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", '"one"')
            self.end_headers()
            self.wfile.write(piece)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    return Handler


def compare(name: str, ours: Callable[[], object], reference_name: str, reference: Callable[[], object]) -> None:
    """Time both, taking turns, and print the medians and their ratio: elapsed, and processor time (children's too)."""
    elapsed: tuple[list[float], list[float]] = ([], [])
    busy: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for act, times, cores in zip((ours, reference), elapsed, busy, strict=True):
            start, before = time.perf_counter(), sum(os.times()[:4])
            act()
            times.append(time.perf_counter() - start)
            cores.append(sum(os.times()[:4]) - before)
    for what, (found, other) in (("elapsed", elapsed), ("processor", busy)):
        a, b = statistics.median(found), statistics.median(other)
        ratio = f"; ratio {a / b:.2f}" if b else ""
        print(f"{name}: {what} {a:.3f} s (best {min(found):.3f} s); {reference_name}: {b:.3f} s{ratio}")


if __name__ == "__main__":
    main()
