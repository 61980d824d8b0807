"""A cell as a project of MoBIE: what models made of MoBIE's own schemas accept, with tables, colours and voxels in place."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import open_volume
from asem_core.errors import OutputExists
from asem_core.stages.mobie import Mobie, export_for_mobie
from asem_core.viewing.colours import PALETTE, rgb
from asem_core.volume import Volume

sys.path.insert(0, str(Path(__file__).parent))
from measured_cell import OBJECTS, measured_cell

QUIET = Run(progress=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cell = measured_cell(tmp_path_factory.mktemp("cells"))
    return export_for_mobie(str(cell), cell.with_name("cell_mobie"), Mobie(), load_catalog(), QUIET)


def test_the_schemas_of_mobie_accept_it(project: Path) -> None:
    """Opened by their library: project and data set, every source and view."""
    mobiedantic = pytest.importorskip("mobiedantic")
    opened = mobiedantic.Project(project)
    opened.load()
    assert opened.model.defaultDataset == "cell"
    data_set = mobiedantic.Dataset(project / opened.model.defaultDataset)
    data_set.load()
    data = data_set.model
    assert set(data.sources) == {"raw", "labels-golgi", "labels-golgi_mask"}
    assert {"default", "raw", "labels-golgi", "labels-golgi-surfaces"} <= set(data.views)


def test_every_file_that_it_names_is_there(project: Path) -> None:
    """Images open as OME-Zarr 0.4 with the cell's voxels, in place."""
    models = pytest.importorskip("ome_zarr_models")
    import zarr

    described = json.loads((project / "cell" / "dataset.json").read_text())
    for name, source in described["sources"].items():
        ((_, about),) = source.items()
        image = project / "cell" / about["imageData"]["ome.zarr"]["relativePath"]
        assert models.open_ome_zarr(zarr.open_group(str(image), mode="r"), version="0.4").ome_zarr_version == "0.4"
        copy: Volume = open_volume(image)
        original: Volume = open_volume(project.with_name("cell.zarr") / name.replace("-", "/"))
        assert (copy.voxel_size_nm, copy.origin_nm) == (original.voxel_size_nm, original.origin_nm)
        np.testing.assert_array_equal(copy.read(), original.read())
        if "tableData" in about:
            assert (project / "cell" / about["tableData"]["tsv"]["relativePath"] / "default.tsv").is_file()


def test_tables_have_places_colours_and_what_was_measured(project: Path) -> None:
    """Boxes and places in nm, as x, y, z; the colours of all other views; a missing number is NaN."""
    with (project / "cell/tables/labels-golgi/default.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["label_id"] for row in rows] == ["1", "2", "5"]
    z, y, x = OBJECTS[2]
    row = rows[1]
    assert float(row["bb_min_x"]) == 20 + (x - 0.5) * 4
    assert float(row["bb_max_y"]) == 0 + (y + 16 - 0.5) * 4
    assert float(row["bb_max_z"]) - float(row["bb_min_z"]) == 16 * 8
    assert float(row["anchor_z"]) == 40 + (z + 7.5) * 8
    # As MoBIE reads it (ColorHelper.java); four bare numbers were alpha-red-green-blue up to its third version, and are
    # red-green-blue-alpha since.
    found = re.fullmatch(r"r(.+)-g(.+)-b(.+)-a(.+)", row["colour"])
    assert found is not None
    *colour, alpha = map(int, found.groups())
    assert alpha == 255
    assert tuple(colour) in {tuple(rgb(c)) for c in PALETTE}
    assert len({r["colour"] for r in rows}) == 3
    assert (row["volume_um3"], row["kind"], row["touches_border"]) == ("0.25", "thin sheet", "0")
    assert rows[0]["sheet_area_um2"] == "NaN"


def test_a_project_is_never_replaced_by_another_unasked(project: Path) -> None:
    """Made again it is found; of other layers it is refused."""
    before = (project / "project.json").stat().st_mtime_ns
    cell = str(project.with_name("cell.zarr"))
    export_for_mobie(cell, project, Mobie(), load_catalog(), QUIET)
    assert (project / "project.json").stat().st_mtime_ns == before
    with pytest.raises(OutputExists, match="made from other data"):
        export_for_mobie(cell, project, Mobie(layers=("raw",)), load_catalog(), QUIET)
