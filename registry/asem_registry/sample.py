"""A model's sample: a piece of an image as its network sees it, and what its weights make of it, to check a copy by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.files import sha256
from asem_registry.cache import NotCached, folder_of, locked, obtain
from asem_registry.card import Card
from asem_registry.fetch import fetch, put
from asem_registry.settings import Settings

LARGEST_DIFFERENCE = 0.01
"""Probabilities of equal weights differ by rounding from machine to machine; further off, the weights or the program are others."""

_EDGE = 24  # voxels of result, at least


@attrs.frozen
class Sample:
    """One piece.

    Attributes
    ----------
    image : uint8, uint16 or float in [0, 1] (z, y, x): grey values after the card's preprocessing
    probability : float32 (z', y', x'), of the foreground, for the middle of the image (less the network's context)
    """

    image: np.ndarray
    probability: np.ndarray


def trained_of(card: Card, weights: Path) -> Any:
    """Load a card's model with its weights, as `asem_core.prediction.trained.Trained`.

    Raises
    ------
    BadInput
        The weights do not fit the model.
    UnknownName
        The card's model is a plugin that is not installed.
    """
    from asem_core import trained_of_card
    from asem_core.catalog import load_catalog

    return trained_of_card(card, weights, load_catalog())


def make_sample(trained: Any, layer: str | None = None, at: tuple[int, int, int] | None = None) -> Sample:
    """Predict a piece of an image, or, where none is given, of made-up greys: then nothing of anybody's images is in it.

    Parameters
    ----------
    trained : see `trained_of`
    layer : an image, as `asem predict` takes it; what the network expects and it lacks is done to it
    at : voxel in the middle of the piece, zyx; by default the middle of the image

    Raises
    ------
    BadInput
        The image is not what the network expects, or is smaller than the piece.
    """
    from asem_core import cut_piece, predict_piece
    from asem_core.catalog import load_catalog

    network = trained.network
    shape = network.input_shape([max(a, -(-_EDGE // a) * a) for a in network.alignment])
    image = (
        _made_up(shape) if layer is None else cut_piece(trained, layer, at, network.output_shape(shape), load_catalog())
    )
    return Sample(image, predict_piece(network, image))


def require_same(trained: Any, sample: Sample, what: str) -> float:
    """Check that a model makes of a sample's image what the sample says; return the largest difference.

    Raises
    ------
    BadInput
        It does not: other weights, or a program that computes otherwise.
    """
    from asem_core import predict_piece

    found = predict_piece(trained.network, sample.image)
    same_shape = found.shape == sample.probability.shape
    off = float(np.abs(found - sample.probability).max()) if same_shape else np.inf
    if not off <= LARGEST_DIFFERENCE:
        raise BadInput(
            f"{what} does not predict its own sample: its probabilities are off by up to {off:.3f} (allowed: "
            f"{LARGEST_DIFFERENCE}). The weights, or the version of the model's plugin, are not those it was published with."
        )
    return off


def obtain_sample(card: Card, settings: Settings) -> Sample | None:
    """Return the sample that a card was published with, from the cache or fetched; None where there is none.

    Raises
    ------
    BadInput
        It is not the one that the card says.
    FetchError
        It cannot be fetched.
    NotCached
        It would have to be, but ASEM_OFFLINE is set.
    """
    if not card.sample:
        return None
    name, expected = card.sample["file"], card.sample["sha256"]
    where, file = card.origin, Path(card.origin).parent.parent / "samples" / name
    if "://" in card.origin:
        where = f"{card.origin.rsplit('/', 2)[0]}/samples/{name}"
        file = folder_of(card, settings) / "sample.safetensors"
        if not file.is_file() or sha256(file) != expected:
            _fetch(card, where, file, settings)
    if not file.is_file():
        return None  # of a card that was bundled
    if (found := sha256(file)) != expected:
        raise BadInput(f"{where} is not the sample of {card.key}: its sha256 is {found}, but the card says {expected}.")
    return from_bytes(file.read_bytes(), where)


def check_sample(card: Card, settings: Settings) -> str:
    """Let a model's weights predict the sample that was published with them, and say how that went.

    Raises
    ------
    BadInput
        The weights predict something else.
    """
    sample = obtain_sample(card, settings)
    if sample is None:
        return "it was published without a sample"
    off = require_same(trained_of(card, obtain(card, settings, progress=False)), sample, card.key)
    return f"it predicts its sample (largest difference {off:.1g})"


def _fetch(card: Card, where: str, file: Path, settings: Settings) -> None:
    if settings.offline:
        raise NotCached(f"The sample of {card.key} is not in the cache, and ASEM_OFFLINE is set. Unset it once.")
    with locked(file.parent, card.key):
        part = file.with_name("source.part")
        fetch(where, part, settings, size=None, progress=False)
        put(part, file)


def to_bytes(sample: Sample) -> bytes:
    """Write a sample as safetensors."""
    from safetensors.numpy import save

    return save({"image": np.ascontiguousarray(sample.image), "probability": np.ascontiguousarray(sample.probability)})


def from_bytes(data: bytes, what: str) -> Sample:
    """Read a sample.

    Raises
    ------
    BadInput
        It is none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(data)
        sample = Sample(found["image"], found["probability"])
    except (SafetensorError, KeyError) as error:
        raise BadInput(f"{what} is not the sample of a model ({error}).") from None
    if sample.image.ndim != 3 or sample.probability.ndim != 3:
        raise BadInput(f"{what} is not the sample of a model: its arrays are not of three axes.")
    return sample


def _made_up(shape: tuple[int, int, int]) -> np.ndarray:
    """Make greys with blobs of several sizes, the same at every call."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).standard_normal(shape)
    mixed = sum(
        layer / layer.std() for layer in (gaussian_filter(noise, sigma, mode="wrap") for sigma in (0.7, 2.0, 4.0))
    )
    low, high = np.percentile(mixed, (1, 99))
    grey: np.ndarray = np.clip((mixed - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return grey
