"""What tests share: the cores, and where the real volumes are."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asem_core.engine.machine import available_cores

ROOT = Path(__file__).resolve().parent.parent

# Side by side (`pytest -n 2`), each process of pytest uses its share of the cores, as workers of `asem` do. Otherwise the
# threads of one wait for cores that those of the other hold, and small networks take ten times as long. The libraries read
# these names when they are loaded, which is later.
SHARE = max(1, available_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, str(SHARE))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while tests are collected, nor later in what that loaded.

    It is two million objects, and a search goes through all of them, for a second and more; napari asks for one with each layer.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Find a file of the real volume-EM data sets, or skip where they are not installed."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("ASEM_TEST_DATA", ROOT.parent / "shared" / "data"))
        if not (folder / name).exists():
            pytest.skip(f"real data {name} is not here; set ASEM_TEST_DATA to the folder that holds it")
        return folder / name

    return find


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server with no buckets; its address."""
    moto_server = pytest.importorskip("moto.server", reason="pip install 'moto[s3]' flask flask-cors")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the S3 server; every bucket is public and gone after the test."""
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    yield client
    for bucket in client.list_buckets()["Buckets"]:
        found = client.list_objects_v2(Bucket=bucket["Name"]).get("Contents", [])
        for item in found:
            client.delete_object(Bucket=bucket["Name"], Key=item["Key"])
        client.delete_bucket(Bucket=bucket["Name"])
