"""One network, several organelles: labels by class, unknown is not background, a map each in one pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.built import build_flow
from asem_core.catalog import Catalog, load_catalog
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.cell.together import create_volumes, fill_volumes
from asem_core.cli import make_app
from asem_core.errors import AsemError, BadInput, PluginError, RecipeError
from asem_core.flow import run_flow
from asem_core.heads import Foreground, LogOdds, Softmax, from_json, settled, to_json
from asem_core.prediction.inference import Arithmetic, Predictor
from asem_core.prediction.trained import model_behind, model_of_class
from asem_core.recipe import read_recipe
from asem_core.training.classes import open_classes
from asem_core.training.loss import class_odds, loss_of, total_loss
from asem_core.training.options import LossOptions, RegionOptions
from asem_core.training.regions import IGNORE
from asem_core.training.targets import Need, read_need
from asem_core.training.validate import mirrored
from asem_core.volume import Box, Spec
from asem_models._unet import UNet
from asem_models.organelles import Organelles

QUIET = Run(progress=False)
SHAPE = (24, 32, 40)
MITO, SHEET = 3, 7


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def labels() -> np.ndarray:
    """Balls (two ids) and a sheet beside them, in one volume."""
    z, y, x = np.indices(SHAPE)
    made = np.zeros(SHAPE, np.uint8)
    made[:, 24:27] = SHEET
    made[(z - 12) ** 2 + (y - 10) ** 2 + (x - 10) ** 2 < 49] = MITO
    made[(z - 12) ** 2 + (y - 10) ** 2 + (x - 30) ** 2 < 49] = MITO + 1
    return made


def write(path: Path, values: np.ndarray, origin: tuple[float, float, float] = (0, 0, 0)) -> str:
    out = create_volume(path, Spec(values.shape, values.dtype, 5.0, origin), block=32, made_by={"stage": "test"})
    out.data[...] = values  # type: ignore[index]
    finish_volume(out)
    return str(path)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes") / "cell.zarr"
    grey = 90 + 60 * (labels() > 0) + np.random.default_rng(0).normal(0, 10, SHAPE)
    write(folder / "raw", grey.clip(0, 255).astype(np.uint8))
    write(folder / "labels/all", labels())
    write(folder / "labels/sheet", (labels() == SHEET)[:12].astype(np.uint8))
    return folder


# --- regions --------------------------------------------------------------------------------------------------------


def opened(cell: Path, catalog: Catalog, classes: tuple[str, ...] = ("mitochondria", "membrane"), **options: object):
    place = RegionOptions(f"{cell}/raw", **options)  # type: ignore[arg-type]
    return open_classes(place, "r", catalog, cell.parent, (1, 1, 1), classes, Organelles(classes=classes))


def test_values_of_one_volume_are_classes(cell: Path, catalog: Catalog) -> None:
    """Each class has the values that the recipe names; a class without any is unknown, not background."""
    values = {"mitochondria": (MITO, MITO + 1), "membrane": (SHEET,)}
    region = opened(cell, catalog, ("mitochondria", "golgi", "membrane"), labels=f"{cell}/labels/all", values=values)
    box = Box.of_shape(SHAPE)
    found = {c: read_need(region, Need(c), box, exclude=False) for c in ("mitochondria", "golgi", "membrane")}
    assert ((found["mitochondria"] == 1) == np.isin(labels(), (MITO, MITO + 1))).all()
    assert ((found["membrane"] == 1) == (labels() == SHEET)).all()
    assert (found["golgi"] == IGNORE).all()
    assert ((region.labels.read() != 0) == (labels() != 0)).all()


def test_classes_may_cover_different_parts(cell: Path, catalog: Catalog) -> None:
    """Where only one of two volumes reaches, the other class is unknown; blocks are drawn from both."""
    places = {"membrane": f"{cell}/labels/sheet", "mitochondria": f"{cell}/labels/all"}
    region = opened(cell, catalog, labels=places, box=None)
    assert region.labels.shape == SHAPE
    sheet = read_need(region, Need("membrane"), Box.of_shape(SHAPE), exclude=False)
    assert (sheet[12:] == IGNORE).all()
    assert (sheet[:12] != IGNORE).all()
    assert region.mask is not None
    assert region.mask.read().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": "labels/all"}, r"learns mitochondria, membrane; say which labels are which"),
        ({"labels": {"mitochondrion": "labels/all"}}, r"'mitochondrion', which the model does not have. Did you mean 'mitochondria'"),
        ({"labels": {"membrane": "labels/all"}, "values": {"membrane": (1,)}}, r"labels names a volume for each class"),
    ],
)  # fmt: skip
def test_unclear_classes_are_refused(cell: Path, catalog: Catalog, options: dict[str, object], words: str) -> None:
    """The message says how to say it."""
    with pytest.raises((RecipeError, BadInput), match=words):
        opened(cell, catalog, **options)


# --- heads and loss -------------------------------------------------------------------------------------------------


def test_an_unknown_class_is_not_learnt() -> None:
    """Its channel has no gradient in a block where nobody annotated it; the others have that of their own loss."""
    output = torch.randn(1, 2, 4, 5, 6, requires_grad=True)
    known = torch.randint(0, 2, (1, 4, 5, 6))
    targets = {Need("a"): known, Need("b"): torch.full_like(known, IGNORE)}
    total_loss(output, targets, (LogOdds("a"), LogOdds("b")), LossOptions()).backward()
    assert output.grad is not None
    assert output.grad[:, 0].abs().max() > 0
    assert output.grad[:, 1].abs().max() == 0


def test_the_published_head_has_the_published_loss() -> None:
    """To the bit; and the log-odds of a class cost what logits of their difference cost."""
    output, target = torch.randn(2, 2, 4, 5, 6), torch.randint(0, 2, (2, 4, 5, 6))
    published = loss_of(output, target, LossOptions())
    assert torch.equal(total_loss(output, {Need(): target}, (), LossOptions()), published)
    odds = output[:, 1:] - output[:, :1]
    alone = total_loss(odds, {Need("a"): target}, (LogOdds("a"),), LossOptions())
    torch.testing.assert_close(alone, published)


def test_a_softmax_learns_what_is_known_of_each_voxel() -> None:
    """- log of the summed probability of all that a voxel may be, by plain sums; and no gradient where nothing is known."""
    rng = np.random.default_rng(0)
    output = torch.from_numpy(rng.normal(size=(1, 4, 3, 4, 5))).float().requires_grad_()
    known = rng.choice([0, 0, 0, 1, IGNORE], (3, 3, 4, 5))
    known[:, 0, 0] = IGNORE
    targets = {Need(c): torch.from_numpy(known[i])[None] for i, c in enumerate("abc")}
    found = total_loss(output, targets, (Softmax("abc"),), LossOptions(balance=False))
    expected = []
    for at in np.ndindex(3, 4, 5):
        classes = known[(slice(None), *at)]
        p = np.exp(output.detach().numpy()[(0, slice(None), *at)].astype(np.float64))
        may_be = [p[1 + i] for i in range(3) if classes[i] == 1] or [
            p[0],
            *(p[1 + i] for i in range(3) if classes[i] == IGNORE),
        ]
        if (classes != IGNORE).any():
            expected.append(-np.log(sum(may_be) / p.sum()))
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)
    found.backward()
    assert output.grad is not None
    assert output.grad[0, :, 0, 0].abs().max() == 0
    assert output.grad.isfinite().all()


def test_a_softmax_of_two_is_the_published_head() -> None:
    """Of one class, fully annotated: the same loss, balanced as well."""
    output, target = torch.randn(2, 2, 4, 5, 6), torch.randint(0, 2, (2, 4, 5, 6))
    published = total_loss(output, {Need("a"): target}, (Foreground("a"),), LossOptions())
    torch.testing.assert_close(total_loss(output, {Need("a"): target}, (Softmax("a"),), LossOptions()), published)


def test_heads_must_fit_the_channels() -> None:
    """Three channels say nothing by their number, and heads of two are not theirs."""
    assert settled((), 2) == (Foreground(),)
    for stated in ((), (LogOdds("a"), LogOdds("b"))):
        with pytest.raises(PluginError, match=r"gives 3 channels, but states heads of"):
            settled(stated, 3)


def test_maps_arranged_for_inference_are_the_networks_own() -> None:
    """Of a published head and one of a class, blocks give both probabilities, whichever way they are computed."""
    torch.manual_seed(0)
    network = UNet(features=2, factors=((2, 2, 2),), heads=(Foreground("a"), LogOdds("b"))).eval()
    assert UNet(**network.spec()).heads == network.heads
    image = np.random.default_rng(0).integers(0, 255, network.input_shape((6, 6, 6))).astype(np.uint8)
    found = Predictor(network, Arithmetic(output="float32"))(image)
    with torch.no_grad():
        output = network(torch.from_numpy(image).float()[None, None] * (2 / 255) - 1)[0]
    np.testing.assert_allclose(found[0], output[:2].softmax(0)[1].numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1], output[2].sigmoid().numpy(), atol=1e-5)


def test_maps_of_a_softmax_add_up(tmp_path: Path) -> None:
    """With the background to 1, in a network arranged for inference, too; and the head is kept with the weights."""
    torch.manual_seed(0)
    network = UNet(features=2, factors=((2, 2, 2),), heads=(Softmax(("a", "b")), LogOdds("c"))).eval()
    assert from_json(json.loads(json.dumps(to_json(network.heads)))) == network.heads
    image = np.random.default_rng(0).integers(0, 255, network.input_shape((6, 6, 6))).astype(np.uint8)
    found = Predictor(network, Arithmetic(output="float32"))(image)
    with torch.no_grad():
        output = network(torch.from_numpy(image).float()[None, None] * (2 / 255) - 1)[0]
    np.testing.assert_allclose(found[:2], output[:3].softmax(0)[1:].numpy(), atol=1e-5)
    np.testing.assert_allclose(found[2], output[3].sigmoid().numpy(), atol=1e-5)
    averaged = dict(class_odds(mirrored(network, network.heads)(torch.rand(1, 1, *image.shape)), network.heads))
    together = sum(odds.sigmoid() for name, odds in averaged.items() if name != "c")
    assert torch.is_tensor(together)
    assert together.max() < 1


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a/b",)])
def test_names_of_classes_are_names_of_layers(names: tuple[str, ...]) -> None:
    """Neither none, nor one twice, nor a path."""
    with pytest.raises(BadInput, match=r"class"):
        Organelles(classes=names)


# --- layers written together ----------------------------------------------------------------------------------------


def test_layers_written_together_go_on_together(tmp_path: Path) -> None:
    """Stopped after a block, and one of two then lost: nothing that was written in the other only is taken for done."""
    made_by = {str(tmp_path / "c.zarr" / name): {"stage": "test", "of": name} for name in ("a", "b")}
    spec, computed = Spec((8, 8, 24), np.uint8, 5.0), []

    def run(*, stops: bool) -> list[np.ndarray]:
        outs = create_volumes(made_by, spec, block=(8, 8, 8))

        def process(box: Box) -> None:
            if stops and box.begin[2] == 16:
                raise KeyboardInterrupt
            computed.append(box.begin[2])
            for number, out in enumerate(outs, 1):
                if not out.finished:
                    out.data[box.slices] = number  # type: ignore[index]

        return [v.read() for v in fill_volumes(outs, lambda: process, (8, 8, 8), QUIET, name="test")]

    with pytest.raises(KeyboardInterrupt):
        run(stops=True)
    lost = create_volume(tmp_path / "c.zarr/a", spec, block=(8, 8, 8), made_by=made_by[str(tmp_path / "c.zarr/a")])
    for file in sorted(lost.work.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    lost.release()
    first, second = run(stops=False)
    assert (first == 1).all()
    assert (second == 2).all()
    assert sorted(computed) == [0, 0, 8, 8, 16]


# --- the whole flow -------------------------------------------------------------------------------------------------

MODEL = """
[model]
use = "organelles"
classes = ["mitochondria", "membrane"]
per_class.membrane = { smallest_segment_vx = 1 }
features = 4
factors = [[2, 2, 2]]
kernels = [[[3, 3, 3]], [[3, 3, 3]]]
"""

RECIPE = f"""
[source]
use = "ome-zarr"
path = "cell.zarr"
layer = "raw"

[labels.all]
use = "ome-zarr"
path = "cell.zarr"
layer = "labels/all"

{MODEL}
[train]
block = [12, 12, 12]
iterations = 3
checkpoint_every = 3
choose_mirrors = true
missing_context = "reflect"
readers = 0

[[train.regions]]
labels = "all"
values = {{ mitochondria = [3, 4], membrane = [7] }}
box = ":,:,0:20"

[[train.validation]]
labels = "all"
values = {{ mitochondria = [3, 4], membrane = [7] }}
box = ":,:,20:40"

[predict]
precision = "float32"

[evaluate]
truth = "all"
values = {{ mitochondria = [3, 4], membrane = [7] }}
box = ":,:,20:40"

[[analyze]]
use = "morphometry"
of = "mitochondria"

[export]
layers = ["membrane/segmentation"]
ending = ".mrc"
"""


@pytest.mark.slow
def test_a_recipe_with_a_softmax(cell: Path, tmp_path: Path, catalog: Catalog) -> None:
    """Trained, validated with mirrors and predicted: no voxel is more than one thing."""
    recipe = RECIPE[: RECIPE.index("[predict]")].replace("features = 4", "features = 4\nsoftmax = true")
    (cell.parent / "softmax.toml").write_text(recipe)
    said: list[str] = []
    run_flow(build_flow(read_recipe(cell.parent / "softmax.toml"), catalog), catalog, tmp_path, QUIET, said.append)
    folder = tmp_path / "cell.zarr/predictions/organelles"
    maps = [open_volume(folder / c / "probability").read().astype(int) for c in ("mitochondria", "membrane")]
    assert (sum(maps) <= 256).all()


def test_a_softmax_of_labels_that_overlap_is_questioned(tmp_path: Path) -> None:
    """How many voxels have two classes is said before training."""
    image, ids = write(tmp_path / "c.zarr/raw", labels() * 20), labels()
    write(tmp_path / "c.zarr/labels/mitochondria", ((ids == MITO) | (ids == MITO + 1)).astype(np.uint8))
    write(tmp_path / "c.zarr/labels/membrane", ((ids == SHEET) | (ids == MITO)).astype(np.uint8))
    (tmp_path / "r.toml").write_text(
        f"""{MODEL}softmax = true

[train]
block = [12, 12, 12]
iterations = 3

[[train.regions]]
raw = "{image}"
labels = {{ mitochondria = "c.zarr/labels/mitochondria", membrane = "c.zarr/labels/membrane" }}
"""
    )
    found = CliRunner().invoke(make_app(), ["preflight", str(tmp_path / "r.toml")])
    told = " ".join(found.output.split())
    assert f"{(ids == MITO).sum():,} voxels belong to several of mitochondria, membrane" in told, told


def test_a_recipe_of_two_organelles(cell: Path, tmp_path: Path, catalog: Catalog) -> None:
    """Trained, predicted in one pass, segmented, scored and measured, each class by its own model's rules."""
    path = cell.parent / "recipe.toml"
    path.write_text(RECIPE)
    said: list[str] = []
    run_flow(build_flow(read_recipe(path), catalog), catalog, tmp_path, QUIET, said.append)
    folder = tmp_path / "cell.zarr/predictions/organelles"
    maps = {c: open_volume(folder / c / "probability") for c in ("mitochondria", "membrane")}
    assert [model_behind(catalog, m).name for m in maps.values()] == list(maps)  # type: ignore[union-attr]
    assert not np.array_equal(maps["mitochondria"].read(), maps["membrane"].read())
    assert Record.of(open_volume(folder / "mitochondria/segmentation")).num_objects is not None
    assert open_volume(folder / "membrane/segmentation").read().max() <= 1
    assert sum(line.startswith(("mitochondria at 0.5: F1", "membrane at 0.5: F1")) for line in said) == 2
    assert (tmp_path / "reports/morphometry/mitochondria/report.html").exists()
    assert (tmp_path / "export/membrane_segmentation.mrc").exists()

    out = str(tmp_path / "again.zarr")
    app, weights = CliRunner(), str(tmp_path / "training")
    words = ("predict", f"{tmp_path}/cell.zarr/raw", "-w", weights, "-o", out, "--precision", "float32", "--quiet")
    found = app.invoke(make_app(), words)  # precision "auto" is timed: on a busy machine it may choose another
    assert found.exit_code == 0, found.output
    again = open_volume(f"{out}/predictions/organelles/membrane/probability")
    np.testing.assert_array_equal(again.read(), maps["membrane"].read())
    scored = app.invoke(make_app(), ["evaluate", again.path, f"{cell}/labels/all", "--values", "7", "--quiet"])
    assert scored.exit_code == 0, scored.output
    assert "F1" in scored.output or "f1" in scored.output


def test_how_objects_are_told_apart_is_said_once(catalog: Catalog) -> None:
    """The class whose objects are split takes it from the whole model, unless its own options say otherwise; other classes do not."""
    offsets = ((-1, 0, 0), (0, -1, 0))
    model = catalog.get("model", "organelles")(
        classes=("mitochondria", "membrane"), affinities=offsets, instances_of="mitochondria", split=True, merge_below=0.3,
        threshold=0.7, per_class={"mitochondria": {"merge_below": 0.4}},
    )  # fmt: skip
    split, other = (model_of_class(catalog, model, name) for name in ("mitochondria", "membrane"))
    assert (split.name, split.split, split.affinities, split.merge_below) == ("mitochondria", True, offsets, 0.4)
    assert split.threshold == catalog.get("model", "mitochondria")().threshold
    assert (other.split, other.affinities) == (False, ())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('truth = "all"\nvalues = { mitochondria = [3, 4], membrane = [7] }', 'truth = "all"', "say which labels are the truth"),
        ('of = "mitochondria"', 'of = "golgi"', "of is 'golgi', but the model has: mitochondria, membrane"),
        ('["membrane/segmentation"]', '["segmentation"]', "membrane/segmentation"),
        ("per_class.membrane", "per_class.golgi", "per_class names the class 'golgi'"),
    ],
)  # fmt: skip
def test_recipes_that_name_no_class_are_refused(cell: Path, catalog: Catalog, old: str, new: str, words: str) -> None:
    """Before anything runs; the message names what there is."""
    assert old in RECIPE
    path = cell.parent / "wrong.toml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(AsemError, match=words):
        build_flow(read_recipe(path), catalog)
