"""Show a cell in the browser, with neuroglancer: image, labels, probabilities and surfaces, at once and in place.

The server offers exactly the layers that were opened, and only under addresses that hold its secret token. Volumes are
read where the viewer looks, from the level of the pyramid that it needs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import hmac
import importlib.util
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import attrs

from asem_core.errors import BadInput, MissingExtra, Option
from asem_core.viewing.neuroglancer_state import Places, describe_view
from asem_core.viewing.scene import Layer
from asem_core.viewing.surfaces import SEARCHED_VOXELS, Surfaces
from asem_core.viewing.virtual_zarr import VirtualZarr
from asem_core.volume import Computed

PATIENCE_S = 2.0
"""What takes longer is answered with 503: the viewer asks again, and meanwhile its few connections serve the image."""
SLOW_THREADS = 4
"""Requests for surfaces and live predictions that may wait at once, apart from all others."""


class Offer(Protocol):
    """Something that the server offers: bytes by key."""

    def is_slow(self, key: str) -> bool:
        """Whether the answer may take seconds."""

    def get(self, key: str) -> bytes | None: ...


@attrs.frozen(eq=False)
class Served:
    """A running server; leave the `with` block, or call `close`, to stop it."""

    url: str
    port: int
    layers: Sequence[Layer]
    _server: Any
    _slow: concurrent.futures.Executor
    viewer: Any  # neuroglancer's: change what is seen by `with served.viewer.txn() as state`

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop at once: no request is answered any more, and nothing goes on computing."""
        self._server.stop()
        for executor in (self._server.executor, self._slow):
            executor.shutdown(wait=True, cancel_futures=True)
        for layer in self.layers:
            if isinstance(layer.volume.data, Computed):
                layer.volume.data.stop_computing()


def serve(layers: Sequence[Layer], *, title: str = "", bind: str = "127.0.0.1", port: int = 0) -> Served:
    """Serve layers to neuroglancer in a browser; returns at once.

    Parameters
    ----------
    title : what the browser's tab says: the cell's name
    bind : address to listen on; with `127.0.0.1` only this computer (or an ssh tunnel to it) can connect
    port : 0 takes a free one

    Raises
    ------
    MissingExtra
        The package neuroglancer is not installed.
    BadInput
        The port is taken, or the address is not this computer's.
    """
    try:
        import neuroglancer.server
        import neuroglancer.viewer_base
    except ModuleNotFoundError:
        raise MissingExtra.of("view", "Viewing in the browser needs neuroglancer") from None

    offers = _offers(layers)
    token = secrets.token_urlsafe(24)
    slow = concurrent.futures.ThreadPoolExecutor(SLOW_THREADS)

    class Server(neuroglancer.server.Server):  # type: ignore[misc]
        """Neuroglancer's own server with one more route: the layers."""

        def _attempt_to_start_server(self) -> None:
            super()._attempt_to_start_server()
            self.app.settings["log_function"] = lambda handler: None
            options = {"token": token, "offers": offers, "executors": (self.executor, slow)}
            self.app.add_handlers(r".*", [(r"/layers/([^/]+)/(.*)", _handler(), options)])

    class Viewer(neuroglancer.viewer_base.ViewerBase):  # type: ignore[misc]
        """A viewer of this server alone (the package's own belongs to a server shared by the whole process)."""

        def defer_callback(self, callback: Any, *arguments: Any, **options: Any) -> None:
            server.loop.call_soon_threadsafe(lambda: callback(*arguments, **options))

    try:
        server = Server(bind_address=bind, bind_port=port, token=token)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadInput(f"Port {port} is in use. Choose another ", Option("port"), ", or leave it out.") from None
        raise BadInput(f"Cannot listen on {bind}:{port}: {error.strerror or error}.") from None
    viewer = Viewer(token=token)
    server.viewers[token] = viewer
    viewer.set_state(state_of(layers, f"{server.server_url}/layers/{token}", title))
    return Served(f"{server.server_url}/v/{token}/", server.port, layers, server, slow, viewer)


def _offers(layers: Sequence[Layer]) -> dict[str, Offer]:
    offers: dict[str, Offer] = {}
    for i, layer in enumerate(layers):
        offers[f"{i}"] = VirtualZarr(layer.name, layer.levels)
        if _has_surfaces(layer):
            offers[f"{i}-surfaces"] = Surfaces(layer.levels)
    return offers


def _has_surfaces(layer: Layer) -> bool:
    """Tell whether the layer has a level small enough to be searched whole, and the mesher is installed."""
    small = layer.kind == "labels" and layer.coarse(SEARCHED_VOXELS).box.size <= SEARCHED_VOXELS
    return small and importlib.util.find_spec("zmesh") is not None


def _handler() -> type[Any]:
    import tornado.web

    class Handler(tornado.web.RequestHandler):  # type: ignore[misc]
        """Answers `/layers/<token>/<offer>/<key>`."""

        def initialize(self, token: str, offers: Mapping[str, Offer], executors: Sequence[Any]) -> None:
            self.token, self.offers, self.executors = token, offers, executors
            self.answer: concurrent.futures.Future[bytes | None] | None = None

        async def get(self, token: str, path: str) -> None:
            name, _, key = path.partition("/")
            if not hmac.compare_digest(token.encode(), self.token.encode()) or name not in self.offers:
                raise tornado.web.HTTPError(404)
            offer = self.offers[name]
            self.answer = self.executors[offer.is_slow(key)].submit(offer.get, key)
            done, _ = await asyncio.wait([asyncio.wrap_future(self.answer)], timeout=PATIENCE_S)
            if not done or self.answer.cancelled():  # it takes long, or the viewer has moved on
                self.answer.cancel()
                raise tornado.web.HTTPError(503)
            found = self.answer.result()
            if found is None:
                raise tornado.web.HTTPError(404)
            self.set_header("Content-Type", "application/json" if key.endswith("json") else "application/octet-stream")
            self.set_header("Cache-Control", "no-store")
            self.finish(found)

        def on_connection_close(self) -> None:
            if self.answer is not None:
                self.answer.cancel()

    return Handler


def state_of(layers: Sequence[Layer], address: str, title: str = "") -> dict[str, Any]:
    """Describe the view of layers that the server offers at an address."""
    places = [
        Places(f"{address}/{i}/|zarr3:", f"precomputed://{address}/{i}-surfaces" if _has_surfaces(layer) else None)
        for i, layer in enumerate(layers)
    ]
    return describe_view(layers, places, title)
