"""Annotated crops of OpenOrganelle, of the CellMap challenge and of COSEM, from buckets of the same layout into cells."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from published import BEGIN, SCALE, cell_and_truth, upload, write_cosem, write_crop, write_openorganelle

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.record import Record
from asem_core.cell.store import open_labels, open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, UnknownName
from asem_core.volume import Box, Labels, Volume
from asem_registry.containers import Container
from asem_registry.crops import COSEM_IDS, at_voxels_of, read_crop
from asem_registry.datasets import NotReachable, find_data_set, outline, plan_crop, pull_crop

QUIET = Run(progress=False)
CROP = Box(BEGIN, (12, 22, 36))


@pytest.fixture
def reach(s3_server, settings, monkeypatch):
    monkeypatch.setenv("ASEM_S3_ENDPOINT", s3_server)
    return attrs.evolve(settings, s3_endpoint=s3_server)


def pulled(name, crop, classes, out, settings, image=None, margin_nm=9.0):
    data_set = find_data_set(str(name))
    return pull_crop(data_set, plan_crop(data_set, crop, classes, image, margin_nm, settings), out, QUIET)


def truth(ids):
    """What is annotated and what is a mitochondrion, with the image's voxels: here every second one tells."""
    return (ids != 0)[::2, ::2, ::2], np.isin(ids, [3, 4, 5])[::2, ::2, ::2]


def test_openorganelle_by_its_own_name(reach, s3, tmp_path):
    """`jrc_...` finds the Zarr container; volumes and crops are listed without looking into the crops."""
    image, ids = cell_and_truth()
    upload(
        s3,
        write_openorganelle(tmp_path / "a.zarr", image, ids),
        "s3://janelia-cosem-datasets/jrc_test-1/jrc_test-1.zarr",
    )
    data_set = find_data_set("jrc_test-1")
    found = [(entry.path, entry.kind) for entry in outline(data_set, reach)]
    assert found == [("recon-1/em/fibsem-uint8", "volume"), ("recon-1/labels/groundtruth/crop7", "crop")]
    assert "CC BY 4.0" in data_set.terms

    cell = tmp_path / "crop7.zarr"
    classes = {"mitochondria": "mito", "ves": "ves"}
    pulled("jrc_test-1", found[1][0], classes, cell, reach)
    raw = open_volume(cell / "raw")
    around = Box((6, 7, 17), (14, 25, 39))  # 9 nm are 2 voxels of 5.24 nm, 3 of 4 nm
    np.testing.assert_array_equal(raw.read(), (image >> 8)[around.slices])
    assert raw.voxel_size_nm == SCALE
    assert raw.origin_nm == pytest.approx([b * s for b, s in zip(around.begin, SCALE, strict=True)])

    known, mito = truth(ids)
    labels = open_labels(cell / "labels" / "mitochondria")
    assert raw.box_of(labels) == CROP.shift([-b for b in around.begin])
    np.testing.assert_array_equal(labels.known_in(labels.box), known)
    np.testing.assert_array_equal(labels.read() != 0, mito & known)
    absent = open_labels(cell / "labels" / "ves")
    assert not absent.read().any()
    np.testing.assert_array_equal(absent.known_in(absent.box), known)
    for layer in (raw, labels):
        said = "\n".join(Record.of(layer).remarks)
        assert "Licence: CC BY 4.0." in said
        assert "published at s3://janelia-cosem-datasets/jrc_test-1/jrc_test-1.zarr/recon-1/" in said


def test_a_crop_of_the_challenge_lies_in_a_container_of_its_own(settings, tmp_path):
    """Its image is in OpenOrganelle's container; the folder that the challenge's `fetch-data` makes holds both."""
    image, ids = cell_and_truth()
    em = write_openorganelle(tmp_path / "a.zarr", image, ids, crops=False)
    write_crop(
        zarr.open_group(str(tmp_path / "groundtruth.zarr"), mode="w", zarr_format=2).create_group("crop234"), ids
    )
    real = find_data_set("jrc_test-3")
    assert real.crops == "s3://janelia-cellmap-fg5f2y1pl8/jrc_test-3/groundtruth.zarr"
    here = attrs.evolve(real, url=str(em), crops=str(tmp_path / "groundtruth.zarr"))
    assert [e.path for e in outline(here, settings)] == ["recon-1/em/fibsem-uint8", "groundtruth.zarr/crop234"]
    plan = plan_crop(here, "groundtruth.zarr/crop234", {"mito": "mito"}, None, 9.0, settings)
    pull_crop(here, plan, tmp_path / "c.zarr", QUIET)
    local = write_openorganelle(tmp_path / "jrc_test-3.zarr", image, ids)
    pulled(local, "recon-1/labels/groundtruth/crop7", {"mito": "mito"}, tmp_path / "d.zarr", settings)
    for cell in ("c.zarr", "d.zarr"):
        labels = open_labels(tmp_path / cell / "labels" / "mito")
        np.testing.assert_array_equal(labels.read() != 0, truth(ids)[1] & truth(ids)[0])


def test_cosem(reach, s3, tmp_path):
    """Ids of `labels/all` become classes, averaged to the image's voxels; 0 is what nobody annotated; offsets are corners'.

    The container is N5; so is OpenOrganelle's older one, which is found where there is no Zarr.
    """
    image, ids = cell_and_truth()
    address = "s3://janelia-cosem-publications/heinrich-2021a/jrc_hela-2/jrc_hela-2.n5"
    upload(s3, write_cosem(tmp_path / "a.n5", image, ids), address)
    crop = "volumes/groundtruth/0003/Crop7"
    data_set = find_data_set("jrc-hela-2-truth")
    older = attrs.evolve(find_data_set("jrc_hela-2"), url=address.replace(".n5", ".zarr"), also=(address,))
    assert [e.path for e in outline(older, reach)] == ["volumes/raw", crop]
    with pytest.raises(
        NotReachable, match=r"jrc_test-9 is no longer at s3://janelia-cosem-publications/nowhere/.*is empty"
    ):
        outline(
            attrs.evolve(
                older, name="jrc_test-9", url="s3://janelia-cosem-publications/nowhere/a.zarr", also=(), crops=""
            ),
            reach,
        )
    plan = plan_crop(data_set, crop, {"mito": "mito", "ribo": "ribosomes"}, None, 0, reach)
    assert plan.box == CROP
    cell = tmp_path / "crop7.zarr"
    pull_crop(data_set, plan, cell, QUIET)
    raw, mito, ribo = (
        open_volume(cell / "raw"),
        open_labels(cell / "labels" / "mito"),
        open_labels(cell / "labels" / "ribo"),
    )
    np.testing.assert_array_equal(raw.read(), image[CROP.slices])
    known, object_ = truth(ids)
    for labels in (mito, ribo):
        assert raw.box_of(labels) == raw.box
        np.testing.assert_array_equal(labels.known_in(labels.box), known)
    np.testing.assert_array_equal(mito.read() != 0, object_)
    assert not (ribo.read()[object_] != 0).any()
    assert any("Membranes are bright" in line for line in Record.of(raw).remarks)
    with pytest.raises(BadInput, match=r"no voxel of golgi \(ids 6, 7\), and does not say whether it was looked for"):
        plan_crop(data_set, crop, {"golgi": "golgi"}, None, 0, reach)
    with pytest.raises(UnknownName, match=r"no class 'mitos'\. Did you mean 'mito'"):
        plan_crop(data_set, crop, {"mitos": "mitos"}, None, 0, reach)


def test_image_and_labels_that_do_not_match(reach, tmp_path):
    """Another voxel size, another place, no image, no classes: each is said."""
    image, ids = cell_and_truth()
    where = write_openorganelle(tmp_path / "a.zarr", image, ids)
    crop = "recon-1/labels/groundtruth/crop7"
    coarse = "recon-1/em/fibsem-uint8/s1"
    plan = plan_crop(find_data_set(str(where)), crop, {"mito": "mito"}, coarse, 0, reach)
    assert plan.image.voxel_size_nm == pytest.approx([2 * s for s in SCALE])
    assert plan.labels["mito"].open().shape == (2, 6, 8)
    other = tmp_path / "b.zarr" / "em"
    zarr.create_array(str(other), shape=(9, 9, 9), dtype="uint8").attrs.update(resolution=[3, 3, 3])
    with pytest.raises(
        BadInput, match=r"voxels of \{'mito': \[2\.62.*make up no voxels of the image .*\[3\.0, 3\.0, 3\.0\]"
    ):
        plan_crop(find_data_set(str(where)), crop, {"mito": "mito"}, str(other), 0, reach)
    zarr.open_array(str(other)).attrs.update(resolution=list(SCALE))
    with pytest.raises(BadInput, match="lies outside of the image"):
        plan_crop(find_data_set(str(where)), crop, {"mito": "mito"}, str(other), 0, reach)
    mask = zarr.create_array(str(where / crop / "masks/mito/s1"), shape=(1, 1, 1), dtype="uint8", zarr_format=2)
    mask.attrs.update(resolution=list(SCALE))
    with pytest.raises(BadInput, match=r"masks/mito/s1 has the shape \[1, 1, 1\], but its labels \[4, 12, 16\]"):
        plan_crop(find_data_set(str(where)), crop, {"mito": "mito"}, None, 0, reach).labels["mito"].open()
    tiny = Labels(np.ones((1, 1, 1), np.uint8), 4.0, path="tiny")
    with pytest.raises(BadInput, match="tiny is smaller than one voxel of image"):
        at_voxels_of(Volume(np.zeros((9, 9, 9)), 8.0, path="image"), tiny, (2, 2, 2), load_catalog())
    alone = tmp_path / "g.zarr"
    write_crop(zarr.open_group(str(alone), mode="w", zarr_format=2).create_group("crop1"), ids)
    with pytest.raises(BadInput, match="holds no image .*image=ADDRESS"):
        plan_crop(find_data_set(str(alone)), "crop1", {"mito": "mito"}, None, 0, reach)
    with pytest.raises(BadInput, match="holds no classes"):
        read_crop(str(where / "recon-1/em/fibsem-uint8/s0"))


def test_what_an_outline_recognises(tmp_path):
    """Zarr 2 and 3, groups with and without levels, N5; crops are ordered by number; what is no volume is left out."""
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=3)
    group.create_array("labels/er", shape=(4, 4, 4), dtype="uint8")
    group.create_array("em/image/s0", shape=(4, 4, 4), dtype="uint8")
    for number in (10, 9):
        group.create_group(f"truth/crop_{number}/er")
    (tmp_path / "a.zarr" / "notes").mkdir()
    found = [e.path for e in Container.at(str(tmp_path / "a.zarr")).outline()]
    assert found == ["em/image", "labels/er", "truth/crop_9", "truth/crop_10"]
    assert Container.at(str(tmp_path / "a.zarr")).levels("em/image") == ["em/image/s0"]
    assert Container.at(str(tmp_path / "nothing.zarr")).outline() == []


def test_ids_are_of_one_table():
    """A class made of parts holds the ids of its parts."""
    for whole in ("mito", "golgi", "ves", "endo", "lyso", "ld", "eres", "np", "mt"):
        parts = [ids for name, ids in COSEM_IDS.items() if name.startswith(f"{whole}_")]
        assert set().union(*parts) == set(COSEM_IDS[whole])


def test_the_commands(reach, tmp_path):
    """A data set, a crop and its classes are shown with their licence; `--classes` copies them."""
    image, ids = cell_and_truth()
    where = write_openorganelle(tmp_path / "a.zarr", image, ids)
    crop = "recon-1/labels/groundtruth/crop7"

    def asem(*words, code=0):
        result = CliRunner().invoke(make_app(), [str(w) for w in words])
        assert result.exit_code == code, result.output
        return result.output

    assert f"{crop}  (annotated crop)" in asem("data", "pull", where)
    said = asem("data", "pull", where, "recon-1/em/fibsem-uint8")
    assert "[20, 40, 48] voxels of [5.24, 4.0, 4.0] nm, uint8" in said
    shown = asem("data", "pull", where, crop)
    assert "see its publisher" in shown
    unknown = int((ids == 0).sum())
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert f"mito one id {int(np.isin(ids, [3, 4]).sum()):,} {unknown:,}" in rows
    assert f"ves instances 0 {unknown:,}" in rows
    out = tmp_path / "c.zarr"
    said = asem(
        "data", "pull", where, crop, "--classes", "mitochondria=mito", "-o", out, "-q", "-j", "1", "--margin-nm", "0"
    )
    assert "[4, 12, 16] voxels" in said
    assert open_labels(out / "labels" / "mitochondria").read().any()
    pull = ("data", "pull", where, crop)
    assert "give each class once" in asem(*pull, "--classes", "mito,mito", "-o", out, code=1)
    assert "becomes a cell" in asem(*pull, "--classes", "mito", "-o", out / "raw", code=1)
    assert "cannot be used for a crop" in asem(*pull, "--box", "0:1,0:1,0:1", code=1)


@pytest.mark.slow
def test_the_recipe_from_containers_to_scores(tmp_path, monkeypatch):
    """The recipe of the docs, as it is but for the size of its training: crops of two cells become scores of both classes."""
    classes = "mitochondria=mito,er"
    for number in (1, 3):
        image, _ = cell_and_truth(number, (40, 64, 64))
        ids = np.full((40, 64, 64), 35, np.uint64)
        ids[4:36, 8:40, 8:40] = 4
        ids[4:36, 44:60, 8:56] = 17
        where = image[8:28, 10:42, 20:52]
        where[:] = where // 4 + np.where(ids[::2, ::2, ::2] == 4, 40000, np.where(ids[::2, ::2, ::2] == 17, 20000, 0))
        published = write_cosem(tmp_path / f"{number}.n5", image, ids)
        words = ["data", "pull", published, "volumes/groundtruth/0003/Crop7", "--classes", classes, "-q", "-j", "1"]
        words += ["--margin-nm", "40", "-o", tmp_path / f"crop{number}.zarr"]
        assert CliRunner().invoke(make_app(), [str(w) for w in words]).exit_code == 0
    monkeypatch.setenv("COSEM_CROPS", str(tmp_path))
    text = (Path(__file__).parents[2] / "docs" / "recipes" / "cosem-crops.toml").read_text()
    network = "features = 4\nfactors = [[2, 2, 2]]\nkernels = [[[3, 3, 3]], [[3, 3, 3]]]\n"
    text = text.replace(
        "[train]\nminutes = 60", f"{network}\n[train]\niterations = 60\nblock = [12, 12, 12]\ncheckpoint_every = 60"
    )
    assert "iterations = 60" in text
    (tmp_path / "recipe.toml").write_text(text)
    result = CliRunner().invoke(make_app(), ["run", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "out"), "-q"])
    assert result.exit_code == 0, result.output
    scores = list((tmp_path / "out").rglob("*.json"))
    assert scores, [str(p.relative_to(tmp_path)) for p in (tmp_path / "out").glob("*/*")]
    assert {"mitochondria", "er"} <= set(" ".join(result.output.split()).replace("/", " ").split()), result.output
