"""What a plan takes of the weights that it starts from: their network, and voxels like theirs."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import attrs
import numpy as np

from asem_core.abilities import OffersTemplates
from asem_core.catalog import Catalog
from asem_core.interfaces import Model
from asem_core.prediction.trained import expected_by, options_of
from asem_core.pretrained import weights_file
from asem_core.training.given import Given
from asem_core.volume import ZyxNm
from asem_core.weights import read_tensors

log = logging.getLogger("asem_core")

ALIKE = 0.25
"""Voxels whose edges differ by at most this part are taken for the same."""


def nearest_voxels(trained: ZyxNm, size: ZyxNm) -> tuple[list[int], list[float], bool]:
    """Average voxels of `size` to the nearest to those of weights: by which factors, to which size in nm, and whether these are alike."""
    factors = [max(1, round(t / s)) for t, s in zip(trained, size, strict=True)]
    reached = [f * s for f, s in zip(factors, size, strict=True)]
    return factors, reached, np.allclose(reached, trained, rtol=ALIKE)


def as_trained(
    given: Given, model: type[Model], weights: str, network: Collection[str], size: ZyxNm, catalog: Catalog
) -> Given:
    """Take the network of weights, also of another organelle, and the voxels nearest to theirs, where nothing else is given.

    Parameters
    ----------
    network : options of the model that make its network
    size : voxels of the image

    Raises
    ------
    BadInput, UnknownName
        There are no such weights, or the file holds none.
    """
    if (file := weights_file(weights)) is not None:
        read_tensors(file)
    if issubclass(model, OffersTemplates):
        network = {*network, *model.also_shape_network()}
    network = {*network} & {*attrs.fields_dict(model)}  # type: ignore[arg-type]
    said = options_of(weights)
    known: dict[tuple[str, str], Any] = {("model", k): said[k] for k in network if said.get(k) is not None}
    trained = expected_by(catalog, weights).voxel_size_nm
    if trained is not None:
        factors, reached, is_alike = nearest_voxels(trained, size)
        known["train", "downsample"] = factors
        if not is_alike:
            log.warning(
                "%s: trained with voxels of %s nm; the nearest here are of %s nm, in which objects look different, so it may "
                "learn no faster than from nothing.",
                weights,
                *(" x ".join(f"{v:g}" for v in sizes) for sizes in (trained, reached)),
            )
    return given.behind(known, "as its weights say")
