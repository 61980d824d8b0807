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
import json
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import attrs
import numpy as np

from asem_core.errors import BadInput, MissingExtra
from asem_core.viewing.mesh import precomputed_fragment, surfaces
from asem_core.viewing.scene import Layer
from asem_core.viewing.virtual_zarr import VirtualZarr
from asem_core.volume import Volume

MESH_VOXELS = 4e6
"""Surfaces in the browser are made of the finest level with at most so many voxels."""
MOST_SURFACES = 500
"""More objects than this are not drawn in 3D at first: double-click those of interest."""
PATIENCE_S = 2.0
"""What takes longer is answered with 503: the viewer asks again, and meanwhile its few connections serve the image."""
SLOW_THREADS = 4
"""Requests for surfaces and live predictions that may wait at once, apart from all others."""


class Offer(Protocol):
    """Something that the server offers: bytes by key."""

    @property
    def slow(self) -> bool:
        """Whether an answer may take seconds."""

    def get(self, key: str) -> bytes | None: ...


@attrs.define(eq=False)
class Surfaces:
    """Neuroglancer's legacy meshes of a label volume, all made when the first is asked for."""

    volume: Volume
    slow: bool = True
    _made: dict[int, bytes] | None = None
    _making: threading.Lock = attrs.field(factory=threading.Lock)

    def get(self, key: str) -> bytes | None:
        """Return the description (`info`), what makes up an object (`7:0`), or its triangles (`7`)."""
        if key == "info":
            return b'{"@type": "neuroglancer_legacy_mesh"}'
        match = re.fullmatch(r"(\d{1,20})(:0)?", key)
        if match is None:
            return None
        if match[2]:
            return json.dumps({"fragments": [match[1]] if int(match[1]) in self.made() else []}).encode()
        return self.made().get(int(match[1]))

    def made(self) -> dict[int, bytes]:
        with self._making:
            if self._made is None:
                volume, origin = self.volume, self.volume.origin_nm
                # A border of background closes what leaves the volume.
                labels = np.pad(volume.read(), 1)
                corner = (
                    origin[0] - volume.voxel_size_nm[0],
                    origin[1] - volume.voxel_size_nm[1],
                    origin[2] - volume.voxel_size_nm[2],
                )
                found = surfaces(labels, volume.voxel_size_nm, corner)
                self._made = {i: precomputed_fragment(s) for i, s in found.items()}
            return self._made


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
            close = getattr(layer.volume.data, "close", None)
            if close is not None:
                close()


def serve(layers: Sequence[Layer], *, bind: str = "127.0.0.1", port: int = 0) -> Served:
    """Serve layers to neuroglancer in a browser; returns at once.

    Parameters
    ----------
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
            raise BadInput(f"Port {port} is in use. Choose another with --port, or leave it out.") from None
        raise BadInput(f"Cannot listen on {bind}:{port}: {error.strerror or error}.") from None
    viewer = Viewer(token=token)
    server.viewers[token] = viewer
    viewer.set_state(state_of(layers, f"{server.server_url}/layers/{token}"))
    return Served(f"{server.server_url}/v/{token}/", server.port, layers, server, slow, viewer)


def _offers(layers: Sequence[Layer]) -> dict[str, Offer]:
    offers: dict[str, Offer] = {}
    for i, layer in enumerate(layers):
        offers[f"{i}"] = VirtualZarr(layer.name, layer.levels)
        if _has_surfaces(layer):
            offers[f"{i}-surfaces"] = Surfaces(layer.coarse(MESH_VOXELS))
    return offers


def _has_surfaces(layer: Layer) -> bool:
    """Tell whether the layer has a level small enough to be meshed whole, and the mesher is installed."""
    small = layer.kind == "labels" and layer.coarse(MESH_VOXELS).box.size <= MESH_VOXELS
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
            self.answer = self.executors[offer.slow].submit(offer.get, key)
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


# --- what is shown at first ---------------------------------------------------------------------------------------


def state_of(layers: Sequence[Layer], address: str) -> dict[str, Any]:
    """Describe the view in neuroglancer's own terms: layers, colours, and a place from which all is seen.

    `address` is where the server offers the layers.
    """
    first = next((x for x in layers if x.kind == "image"), layers[0]).volume
    size, origin = np.array(first.voxel_size_nm[::-1]), np.array(first.origin_nm[::-1])
    extent = np.array(first.shape[::-1]) * size
    images = [x for x in layers if x.kind == "image"]
    return {
        "dimensions": {axis: [float(s) * 1e-9, "m"] for axis, s in zip("xyz", size, strict=True)},
        "position": ((origin + (extent - size) / 2) / size).tolist(),
        "crossSectionScale": float(extent.max() / size.min() / 600),
        "projectionScale": float(extent.max() / size.min() * 1.4),
        "layout": "4panel",
        "layers": [
            {**_layer_state(layer, f"{address}/{i}"), "visible": layer.kind != "image" or layer is images[0]}
            for i, layer in enumerate(layers)
        ],
    }


def _layer_state(layer: Layer, address: str) -> dict[str, Any]:
    source = {"url": f"{address}/|zarr3:"}
    if layer.kind == "image":
        low, high = layer.grey_range
        shader = f"#uicontrol invlerp grey(range=[{low:g}, {high:g}])\nvoid main() {{ emitGrayscale(grey()); }}\n"
        return {
            "type": "image",
            "name": layer.name,
            "source": source,
            "shader": shader,
            "opacity": 1.0,
            "blend": "default",
        }
    if layer.kind == "probability":
        return {"type": "image", "name": layer.name, "source": source, "shader": _probability(layer), "opacity": 0.5}
    state = {
        "type": "segmentation",
        "name": layer.name,
        "source": [source],
        "selectedAlpha": 0.4,
        "notSelectedAlpha": 0.15,
    }
    if layer.kind == "errors":
        colours = {"1": "#ff3030", "2": "#3060ff"}
        return {
            **state,
            "segments": ["1", "2"],
            "segmentColors": colours,
            "name": f"{layer.name} (red: false, blue: missed)",
        }
    state["segmentDefaultColor"] = layer.colour
    if _has_surfaces(layer):
        state["source"] = [source, f"precomputed://{address}-surfaces"]
        ids = np.unique(layer.coarse(MESH_VOXELS).read())
        if len(ids) <= MOST_SURFACES:
            state["segments"] = [str(i) for i in ids if i != 0]
    return state


def _probability(layer: Layer) -> str:
    """Colour what is at least as probable as a slider says, the more the more probable."""
    value = "getDataValue()" if layer.volume.dtype.kind == "f" else "toNormalized(getDataValue())"
    return (
        f'#uicontrol vec3 colour color(default="{layer.colour}")\n'
        "#uicontrol float threshold slider(min=0, max=1, default=0.5)\n"
        "void main() {\n"
        f"  float p = {value};\n"
        "  emitRGBA(vec4(colour, p < threshold ? 0.0 : p));\n"
        "}\n"
    )
