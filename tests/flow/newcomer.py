"""What the tests of README and docs share: the commands of a page, and typing them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from typer.testing import CliRunner

from asem_core.cli import make_app

ROOT = Path(__file__).parents[2]
NOT_TYPED = {
    "asem view": "it serves until Ctrl-C; test_view reads what it serves",
    "asem annotate open": "it needs a screen and a hand; test_napari paints in it",
}
"""Commands that a newcomer types and these tests don't, and why."""


def commands(text: str) -> list[str]:
    """Find the `$ ...` lines of console blocks, without their comments."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+#.*$", "", line[2:]) for line in lines if line.startswith("$ ")]


def section(page: Path, heading: str) -> str:
    """Return one section of a page."""
    return page.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]


def type_in(line: str) -> str:
    """Type a command as it stands, in process; it must not fail. Returns what it said."""
    if any(line.startswith(start) for start in NOT_TYPED):
        return ""
    done = CliRunner().invoke(make_app(), shlex.split(line)[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    return str(done.output)


def write_planes(folder: Path, voxels: np.ndarray, name: str = "slice_{:04d}.tif") -> None:
    """Write a stack as a microscope does: a TIFF file for each plane."""
    folder.mkdir(parents=True)
    for z, plane in enumerate(voxels):
        tifffile.imwrite(folder / name.format(z), plane)


def publish_small_model(folder: Path, s3: Any, endpoint: str, monkeypatch: Any) -> str:
    """Publish weights for 5 nm of a network small enough for a test, in a bucket on loopback; return the model's name."""
    from asem_core.weights import save_weights
    from asem_models.mitochondria import Mitochondria
    from asem_registry.own import add_run, card_of_run

    for name in ("HOME", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"ASEM_{name}", str(folder / name))
    monkeypatch.setenv("ASEM_S3_ENDPOINT", endpoint)
    network = Mitochondria(features=2, factors=((2, 2, 2),)).network()
    model = {"use": "mitochondria", "features": 2, "factors": [[2, 2, 2]]}
    steps = [{"name": "clahe", "options": {"kernel_vx": 16, "clip_limit": 0.02}}]
    about = {"model": model, "voxel_size_nm": [5, 5, 5], "preprocessing": steps}
    file = save_weights(folder / "small-5nm.safetensors", network, about)
    words = dict.fromkeys(("training_data", "preparation", "contrast", "licence", "citation"), "none: random weights")
    add_run(*card_of_run(file, "small-5nm", 1, words), words, folder / "HOME")
    # The card of a model that is downloaded: its weights are in the bucket only.
    (card,) = (folder / "HOME/cards").glob("*.toml")
    (weights,) = (folder / "HOME/weights").iterdir()
    s3.create_bucket(Bucket="asem-test", ACL="public-read")
    s3.put_object(Bucket="asem-test", Key="small.safetensors", Body=weights.read_bytes(), ACL="public-read")
    here = f'file = "{weights.name}"\n'
    assert here in card.read_text()
    card.write_text(card.read_text().replace(here, 'urls = ["s3://asem-test/small.safetensors"]\n'))
    weights.unlink()
    file.unlink()
    return "small-5nm"
