"""The parts of training: loss, class weights, fit regime, options, targets, validation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from asem_core.errors import BadInput, NoSpace, RecipeError
from asem_core.interfaces import Region
from asem_core.recipe import build
from asem_core.run_folder import RunFolder
from asem_core.training.devices import autocast, has_amx
from asem_core.training.loop import learning_rate
from asem_core.training.loss import class_weights, loss_of
from asem_core.training.options import LossOptions, OptimizerOptions, TrainOptions
from asem_core.training.pictures import write_picture
from asem_core.training.regime import fit_regime
from asem_core.training.regions import IGNORE, missing_context, read_target
from asem_core.training.report import how_chosen, used_regime
from asem_core.training.validate import Tile, summarise, tiles_of, validate
from asem_core.volume import Box, Labels, Volume

# --- loss -------------------------------------------------------------------------------------------------------


def test_class_weights_equal_a_case_worked_out_by_hand() -> None:
    """Of 8 voxels 2 are foreground and 2 not annotated: frequencies 4/6 and 2/6, weights 1.5 and 3."""
    target = torch.tensor([0, 0, 0, 0, 1, 1, IGNORE, IGNORE]).view(1, 2, 2, 2)
    torch.testing.assert_close(class_weights(target, 2, 0.01), torch.tensor([[1.5, 3.0]]))


def test_class_weights_are_clipped() -> None:
    """A class that is all there is, or is absent, has a frequency of 0.99 or 0.01."""
    target = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    torch.testing.assert_close(class_weights(target, 2, 0.01), torch.tensor([[1 / 0.99, 100.0]]))


@pytest.mark.parametrize("focus", [0.0, 2.0])
def test_loss_is_the_weighted_mean(focus: float) -> None:
    """Sum of weight times cross-entropy over the sum of weights, worked out voxel by voxel; blocks count alike.

    With a focus, a voxel's cross-entropy is scaled by (1 - probability of its class)^focus.
    """
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, 2, 2, 3, 2)).astype(np.float32))
    target = torch.from_numpy(rng.choice([0, 1, IGNORE], (2, 2, 3, 2), p=[0.6, 0.2, 0.2]))
    means = []
    for n in range(2):
        weights = class_weights(target[n : n + 1], 2, 0.01)[0]
        total = weight = 0.0
        for z, y, x in np.ndindex(2, 3, 2):
            c = int(target[n, z, y, x])
            if c != IGNORE:
                found = torch.log_softmax(logits[n, :, z, y, x], 0)[c]
                total += float(weights[c] * -found * (1 - found.exp()) ** focus)
                weight += float(weights[c])
        means.append(total / weight)
    assert float(loss_of(logits, target, LossOptions(focus=focus))) == pytest.approx(np.mean(means), rel=1e-5)


def test_a_focused_loss_has_a_gradient_everywhere() -> None:
    """Also where a voxel is right beyond doubt, or wrong beyond doubt, and for a focus below 1."""
    logits = torch.tensor([[60.0, -60.0, 0.0]]).repeat(2, 1).mul(torch.tensor([[1.0], [-1.0]]))
    logits = logits.view(1, 2, 1, 1, 3).requires_grad_()
    loss_of(logits, torch.zeros(1, 1, 1, 3, dtype=torch.long), LossOptions(focus=0.5)).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_voxels_that_are_not_annotated_have_no_gradient() -> None:
    """Their logits do not matter, and a block without annotation gives 0 and not NaN."""
    logits = torch.randn(2, 2, 3, 3, 3, requires_grad=True)
    target = torch.zeros(2, 3, 3, 3, dtype=torch.long)
    target[0, 1:], target[1] = IGNORE, IGNORE
    loss = loss_of(logits, target, LossOptions())
    loss.backward()
    assert logits.grad is not None
    assert float(loss.detach()) > 0
    assert bool((logits.grad[0, :, 1:] == 0).all())
    assert bool((logits.grad[1] == 0).all())
    assert float(loss_of(logits[1:], target[1:], LossOptions())) == 0


# --- fit regime -------------------------------------------------------------------------------------------------


def test_fit_regime_is_the_first_calm_window() -> None:
    """The loss falls until 5,000 and has a spike at 12,000: the first calm 10,000 iterations begin after it."""
    at = list(range(1000, 31000, 1000))
    loss = [max(2.0 - 0.3 * i / 1000, 0.4) for i in at]
    loss[11] = 1.5
    regime = fit_regime(at, loss, 10_000)
    assert regime is not None
    assert (regime.first, regime.middle, regime.last, regime.stable) == (13_000, 18_000, 23_000, True)


def test_fit_regime_without_a_calm_window_is_the_calmest() -> None:
    """It is marked as not stable."""
    regime = fit_regime([1, 2, 3, 4], [8.0, 4.0, 2.0, 1.2], 1)
    assert regime is not None
    assert not regime.stable
    assert regime.first == 3


def test_fit_regime_of_short_runs() -> None:
    """A run shorter than the window is taken whole; without validations there is none."""
    regime = fit_regime([10, 20], [0.5, 0.5], 20_000)
    assert regime is not None
    assert (regime.first, regime.last, regime.stable) == (10, 20, True)
    assert fit_regime([], [], 20_000) is None


@pytest.mark.parametrize(
    ("rule", "num_validations", "said"),
    [
        ("last", 0, "no validations: the last checkpoint"),
        ("last", 1, "one validation: its checkpoint"),
        ("fit", 1, "one validation: its checkpoint"),
        ("last", 3, "The last checkpoint was chosen"),
        ("best", 3, "highest F1"),
        ("fit", 3, "stable from iteration 20 to 60; the checkpoint in the middle of this fit regime"),
    ],
)
def test_the_report_tells_the_rule_that_was_used(rule: str, num_validations: int, said: str) -> None:
    """The report speaks of the fit regime, and the curves shade it, only where it chose the checkpoint."""
    at = [20 * (n + 1) for n in range(num_validations)]
    regime = fit_regime(at, [1.0] * num_validations, 1000)
    choice = {"rule": rule, "fit_regime": regime and attrs.asdict(regime)}
    text = how_chosen(choice, at)
    assert said in text
    used = rule == "fit" and num_validations > 1
    assert ("regime" in text) is used
    assert (used_regime(choice) is not None) is used


# --- options ----------------------------------------------------------------------------------------------------

REGION = {"raw": "a.zarr/raw", "labels": "a.zarr/labels/m"}


def test_defaults_are_the_published_numbers() -> None:
    """Adam at 3e-5 with decay 3e-5, one block of 110 voxels, 100,000 iterations, a checkpoint every 1,000."""
    options = build(TrainOptions, {"regions": [REGION]}, "r.toml @ train")
    assert (options.optimizer.learning_rate, options.optimizer.weight_decay) == (3e-5, 3e-5)
    assert (options.block, options.batch, options.iterations, options.checkpoint_every) == (
        (110,) * 3,
        1,
        100_000,
        1000,
    )
    assert (options.loss.balance, options.loss.least_frequency, options.fit_window) == (True, 0.01, 20_000)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regions": []}, r"no region to train on: add \[\[train.regions\]\]"),
        ({"regions": [REGION], "iteration": 5}, "Did you mean 'iterations'"),
        ({"regions": [REGION], "iterations": 2.5}, "expected a whole number"),
        ({"regions": [REGION], "iterations": 0}, "iterations is 0; it must be at least 1"),
        ({"regions": [REGION], "keep_last": -1}, "keep_last is -1"),
        ({"regions": [REGION], "choose": "best"}, r"needs \[\[train.validation\]\]"),
        ({"regions": [REGION], "block": [8, 0, 8]}, "each edge has 1 to 4096 voxels"),
        ({"regions": [REGION], "loss": {"least_frequency": 0.9}}, "between 0 and 0.5"),
        ({"regions": [REGION], "optimizer": {"schedule": "step"}}, "expected one of 'constant', 'cosine'"),
        ({"regions": [{"raw": "a", "label": "b"}]}, "Did you mean 'labels'"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, object], said: str) -> None:
    """Every mistake names the option and what to write."""
    with pytest.raises(RecipeError, match=said):
        build(TrainOptions, options, "r.toml @ train")


def test_learning_rate_schedules() -> None:
    """Constant stays; cosine falls to about a hundredth; warm-up grows from nothing."""
    constant, cosine = OptimizerOptions(1.0), OptimizerOptions(1.0, schedule="cosine", warmup=9)
    assert [learning_rate(constant, i, 100) for i in (1, 50, 100)] == [1.0, 1.0, 1.0]
    assert learning_rate(cosine, 1, 100) == pytest.approx(0.1)
    assert learning_rate(cosine, 51, 100) == pytest.approx(0.505)
    assert learning_rate(cosine, 100, 100) == pytest.approx(0.01, abs=1e-3)


# --- targets and validation -------------------------------------------------------------------------------------


def region(shape: tuple[int, int, int] = (6, 10, 12), **others: np.ndarray) -> Region:
    rng = np.random.default_rng(0)
    raw = Volume(rng.integers(0, 255, (20, 24, 26)).astype(np.uint8), 5.0)
    labels = Labels((rng.random(shape) < 0.3).astype(np.uint8) * 7, 5.0, (20.0, 25.0, 30.0))
    return Region("r", raw, labels, **{k: Labels(v, 5.0, labels.origin_nm) for k, v in others.items()})


def test_targets_mark_what_is_not_annotated() -> None:
    """Outside the region, where the mask is 0 and, if asked for, in the exclusion zone the target is IGNORE."""
    mask = np.ones((6, 10, 12), np.uint8)
    mask[:, :2] = 0
    zone = np.zeros((6, 10, 12), np.uint8)
    zone[:, :, 5] = 1
    r = region(mask=mask, exclusion=zone)
    box = Box((-1, 0, 0), (6, 10, 13))
    target, scored = read_target(r, box, exclude=False), read_target(r, box, exclude=True)
    assert (target[0] == IGNORE).all()
    assert (target[:, :2] == IGNORE).all()
    assert (target[:, :, 12] == IGNORE).all()
    np.testing.assert_array_equal(target[1:, 2:, :12], r.labels.read()[:, 2:] != 0)
    assert (scored[:, :, 5] == IGNORE).all()
    np.testing.assert_array_equal(scored[1:, 2:, :5], target[1:, 2:, :5])
    assert (read_target(r, Box((50, 0, 0), (52, 3, 3)), exclude=True) == IGNORE).all()


def test_missing_context_is_measured_side_by_side() -> None:
    """Labels begin at voxel (4, 5, 6) of the image and end 10, 9 and 8 voxels before its end."""
    assert missing_context(region(), (4, 5, 6)) == {}
    assert missing_context(region(), (12, 6, 6)) == {"before z": 8, "after z": 2, "before y": 1}


def test_validation_scores_each_annotated_voxel_once() -> None:
    """Tiles that stick out count nothing twice; a perfect network has F1 1, at any tile shape."""
    zone = np.zeros((6, 10, 12), np.uint8)
    zone[2] = 1
    r = region(exclusion=zone)
    expected = int((r.labels.read()[[0, 1, 3, 4, 5]] != 0).sum())
    for shape in ((4, 4, 4), (6, 10, 12), (7, 16, 5)):
        tiles = tiles_of([r], shape, 0)
        truth = iter([read_target(t.region, t.box, exclude=False) == 1 for t in tiles])

        def perfect(image: torch.Tensor, truth: object = truth) -> torch.Tensor:
            yes = torch.from_numpy(next(truth)).float()  # type: ignore[call-overload]
            return torch.stack([10 * (1 - yes), 10 * yes])[None]

        found = summarise(*validate(perfect, tiles, (0, 0, 0), LossOptions(), torch.device("cpu")))
        assert int(found.by_map[""].foreground_vx.sum()) == expected
        assert int(found.by_map[""].background_vx.sum()) == 5 * 120 - expected
        assert found.to_metrics()["f1"] == 1
        assert found.loss < 1e-3


def test_fewer_tiles_are_spread_evenly() -> None:
    """Of twelve tiles, three are the first, a middle and the last one."""
    tiles = tiles_of([region((6, 10, 12))], (6, 5, 2), 0)
    assert [t.box for t in tiles_of([region((6, 10, 12))], (6, 5, 2), 3)] == [tiles[i].box for i in (0, 6, 11)]


def test_pictures_show_in_grey_what_is_not_annotated(tmp_path: Path) -> None:
    """In the truth as in the error, so that it is not taken for background."""
    mask = np.ones((6, 10, 12), np.uint8)
    mask[:, :, 6:] = 0
    tile = Tile(region(mask=mask), Box.of_shape((6, 10, 12)))
    write_picture(tmp_path / "a.png", lambda image: torch.zeros(1, 2, 6, 10, 12), tile, (0, 0, 0), torch.device("cpu"))
    with Image.open(tmp_path / "a.png") as image:
        picture = np.asarray(image)
    scale = picture.shape[0] // 10
    _, truth, _, error = (picture[::scale, ::scale][:, 13 * n : 13 * n + 12] for n in range(4))
    for panel in (truth, error):
        assert (panel[:, 6:] == 128).all()
        assert not (panel[:, :6] == 128).any()


# --- the run's folder -------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_in_words(tmp_path: Path) -> None:
    """The message names the file, and says that what was saved is whole and how to go on."""
    folder = RunFolder(tmp_path)
    folder.metrics.symlink_to("/dev/full")
    with pytest.raises(NoSpace, match=r"disk is full: .*metrics.jsonl .*run the same command again"):
        folder.add_metrics({"iteration": 1})


def test_half_a_line_of_metrics_is_forgotten(tmp_path: Path) -> None:
    """A run killed while it wrote leaves half a line; rewinding drops it and what came after the checkpoint."""
    folder = RunFolder(tmp_path)
    for i in (1, 2, 3):
        folder.add_metrics({"iteration": i, "kind": "train"})
    with folder.metrics.open("a") as file:
        file.write('{"iteration": 4, "ki')
    folder.rewind(2)
    assert [line["iteration"] for line in folder.read_metrics("train")] == [1, 2]


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    """Choosing from, or resuming, an empty folder says what is missing."""
    with pytest.raises(BadInput, match=r"choice.json does not exist. Is .* the folder of a training run"):
        RunFolder(tmp_path).chosen()
    with pytest.raises(BadInput, match=r"holds no state.pt: nothing to resume"):
        RunFolder(tmp_path).load_state(torch.device("cpu"))


# --- bfloat16 on a CPU ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "how"),
    [
        ((8, 4, 3, 3, 3), {}),
        ((8, 4, 1, 3, 3), {}),
        ((8, 2, 3, 3, 3), {"stride": (2, 1, 2), "padding": (1, 0, 2), "dilation": (2, 1, 1), "groups": 2}),
        ((8, 4, 3, 5, 3), {"padding": "same"}),
        ((8, 4, 2, 3, 3), {"padding": "same"}),
        ((8, 4, 2, 3, 4), {"padding": "same", "dilation": (1, 2, 3)}),
        ((4, 8, 1, 2, 2), {"stride": (1, 2, 2), "transposed": True}),
        (
            (4, 4, 3, 3, 2),
            {
                "stride": (2, 2, 1),
                "padding": (1, 0, 1),
                "output_padding": (1, 0, 0),
                "groups": 2,
                "dilation": (1, 2, 1),
                "transposed": True,
            },
        ),
    ],
)
def test_gradients_of_filters_in_bfloat16_are_those_of_float32(filters: tuple[int, ...], how: dict[str, Any]) -> None:
    """They are worked out plane by plane (`GradientsPlaneByPlane`), whatever a convolution's options are."""
    rng = torch.Generator().manual_seed(0)
    how = dict(how)
    convolve = torch.nn.functional.conv_transpose3d if how.pop("transposed", False) else torch.nn.functional.conv3d
    given = [torch.randn(shape, generator=rng) for shape in ((2, 4, 8, 9, 10), filters, (8,))]
    found = []
    for half in (False, True):
        inputs = [g.clone().requires_grad_() for g in given]
        with autocast(half, torch.device("cpu")):
            made = convolve(*inputs, **how)
        assert made.dtype == (torch.bfloat16 if half else torch.float32)
        (made.float() ** 2).mean().backward()
        found.append([made.float().detach(), *(g.grad for g in inputs)])
    for right, here in zip(*found, strict=True):
        assert float((right - here).norm() / right.norm()) < 0.01  # bfloat16 keeps 8 bits


@pytest.mark.skipif(not has_amx(), reason="the processor has no AMX, whose gradients these are")
@pytest.mark.parametrize(
    ("layer", "shape"),
    [("Conv3d(16, 16, (1, 3, 3))", (6, 136, 136)), ("ConvTranspose3d(16, 16, (1, 2, 2), (1, 2, 2))", (1, 200, 200))],
)
def test_gradients_of_large_flat_maps_in_bfloat16_do_not_kill_the_process(
    layer: str, shape: tuple[int, int, int]
) -> None:
    """torch's own write beyond their memory there; without it the process survives, or dies, by chance."""
    code = (
        "import torch; from asem_core.training.devices import autocast\n"
        f"layer = torch.nn.{layer}.to(memory_format=torch.channels_last_3d)\n"
        "for _ in range(4):\n"
        f"    image = torch.randn(1, 16, *{shape}).to(memory_format=torch.channels_last_3d)\n"
        "    with autocast(True, torch.device('cpu')): made = layer(image)\n"
        "    (made.float() ** 2).mean().backward()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
