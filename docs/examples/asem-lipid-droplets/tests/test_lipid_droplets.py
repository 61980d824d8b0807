"""The plugin is found by its name and keeps the promises of a model."""

from asem_core.catalog import load_catalog
from asem_core.testing import ModelKit
from asem_lipid_droplets import LipidDroplets


class TestLipidDroplets(ModelKit):
    plugin = LipidDroplets(features=4)


def test_is_found_by_name() -> None:
    """`asem plugins list` shows it."""
    assert load_catalog().get("model", "lipid-droplets") is LipidDroplets
