"""Conformance kits: what every plugin of a kind must do. A plugin's test inherits one in three lines:

    from asem_core.testing import PreprocessorKit

    class TestMyStep(PreprocessorKit):
        plugin = MyStep()

Kits skip nothing a plugin claims: they check its options, its promises about shape, type and place, and that its result
does not depend on blocks. They need pytest only to run, not to import.
"""

from __future__ import annotations

import itertools
import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from asem_core.blocks import Run
from asem_core.catalog import KINDS
from asem_core.cell.apply import apply_in_memory
from asem_core.errors import AsemError
from asem_core.interfaces import Analysis, Region, WritesVolumes
from asem_core.paths import address_option
from asem_core.recipe import build
from asem_core.stages.export import as_is, export_volume
from asem_core.stages.segment import segment
from asem_core.volume import Box, Labels, Volume

QUIET = Run(progress=False)


def example_image(shape: tuple[int, int, int] = (40, 44, 48), voxel_size_nm: float = 5.0) -> Volume:
    """Make a small image: uint8, smooth grey texture with dark rims around two balls; the same every time."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=shape), 2, mode="reflect")
    grey = 140 + 25 * texture / texture.std() + rng.normal(0, 4, shape)
    inside = gaussian_filter((example_labels(shape).read() > 0).astype(float), 1)
    grey -= 300 * inside * (1 - inside)
    return Volume(np.clip(grey, 0, 255).astype(np.uint8), voxel_size_nm, path="(example image)")


def example_labels(shape: tuple[int, int, int] = (40, 44, 48), voxel_size_nm: float = 5.0) -> Labels:
    """Make instance labels: two balls (ids 1 and 2) of radius 9 and 6 voxels in the image of `example_image`."""
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    for i, (centre, radius) in enumerate((((0.35, 0.35, 0.35), 9), ((0.7, 0.7, 0.7), 6)), 1):
        c = [f * n for f, n in zip(centre, shape, strict=True)]
        labels[(z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 <= radius**2] = i
    return Labels(labels, voxel_size_nm, path="(example labels)")


class PluginKit:
    """What holds for every kind: the class is made of plain options, and its object travels between processes."""

    kind: ClassVar[str]
    plugin: Any = None

    def make(self, tmp_path: Path) -> Any:
        """Return the plugin to test; override it if the plugin needs files."""
        return self.plugin

    def test_derives_from_its_interface(self, tmp_path: Path) -> None:
        """The class names its kind explicitly, is a frozen attrs class, and has a kebab-case name."""
        cls: Any = type(self.make(tmp_path))
        name = cls.name
        assert KINDS[self.kind] in cls.__mro__, f"{cls.__name__} does not derive from {KINDS[self.kind].__name__}"
        assert attrs.has(cls), f"{cls.__name__} is not an attrs class"
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), f"{name!r} is not kebab-case"
        assert cls.__doc__, f"{cls.__name__} has no docstring"

    def test_is_built_from_plain_options(self, tmp_path: Path) -> None:
        """A recipe can say everything that the object says: plain values in, an equal object out."""
        plugin = self.make(tmp_path)
        plain = {f.name: _toml(getattr(plugin, f.name)) for f in attrs.fields(type(plugin)) if f.init}
        plain = {k: v for k, v in plain.items() if v is not None}
        assert build(type(plugin), plain, "recipe.toml @ test") == plugin

    def test_refuses_unknown_options(self, tmp_path: Path) -> None:
        """A misspelt option is an error, not silence."""
        try:
            build(type(self.make(tmp_path)), {"no_such_option": 1}, "recipe.toml @ test")
        except AsemError as error:
            assert "no_such_option" in str(error)  # noqa: PT017 - kits do not import pytest
        else:
            raise AssertionError("an unknown option was accepted")

    def test_travels_to_workers(self, tmp_path: Path) -> None:
        """The object pickles, so that worker processes can use it."""
        plugin = self.make(tmp_path)
        assert pickle.loads(pickle.dumps(plugin)) == plugin


class SourceKit(PluginKit):
    """A source opens lazily, says where it is, and answers bad paths with an `AsemError`.

    `written` is the name of a file that one which writes is given, with an ending that it reads.
    """

    kind = "source"
    written: ClassVar[str] = "written"

    def test_opens_every_layer(self, tmp_path: Path) -> None:
        """Each listed layer opens as a volume with a voxel size; the first is the default."""
        source = self.make(tmp_path)
        names = source.layers()
        assert names
        for name in names:
            volume = source.open(name)
            assert isinstance(volume, Volume)
            assert min(volume.shape) > 0
            assert min(volume.voxel_size_nm) > 0
        assert source.open().shape == source.open(names[0]).shape

    def test_reads_boxes_as_parts_of_the_whole(self, tmp_path: Path) -> None:
        """A box equals the same part of the whole."""
        volume = self.make(tmp_path).open()
        window = Box((0, 0, 0), tuple(min(n, 48) for n in volume.shape))
        whole = volume.read(window)
        part = Box(tuple(n // 3 for n in window.shape), tuple(max(n // 3 + 1, 2 * n // 3) for n in window.shape))
        np.testing.assert_array_equal(volume.read(part), whole[part.slices])

    def test_reads_back_what_it_wrote(self, tmp_path: Path) -> None:
        """One that writes (`WritesVolumes`) gives back each of its types, exactly, under the name `written`."""
        source = self.make(tmp_path)
        place = address_option(type(source))
        if WritesVolumes not in type(source).__mro__ or place is None:
            return
        assert isinstance(type(source).can_write("name"), bool)
        for dtype in source.dtypes:
            values = (np.arange(5 * 6 * 7).reshape(5, 6, 7) % 2).astype(dtype)
            target = tmp_path / "written" / dtype / self.written
            target.parent.mkdir(parents=True)
            writer = attrs.evolve(source, **{place: str(target)})
            volume = Volume(values, 5.0)
            assert export_volume(writer, volume, QUIET, original=as_is(volume), ids=True) == target
            found = writer.open().read()
            assert found.shape == values.shape
            if values.dtype.kind == "u":  # others an image's reading may turn into whole numbers
                np.testing.assert_array_equal(found, values)

    def test_does_not_claim_what_is_not_there(self, tmp_path: Path) -> None:
        """`can_read` of a missing path is False and never raises."""
        assert type(self.make(tmp_path)).can_read(str(tmp_path / "nothing-here.xyz")) is False

    def test_unknown_layer(self, tmp_path: Path) -> None:
        """A layer that does not exist is an `AsemError`."""
        _expect_error(lambda: self.make(tmp_path).open("no/such/layer"))


class PreprocessorKit(PluginKit):
    """A step is a function of the volume, not of the blocks in which it runs. Set `on_labels` for label steps."""

    kind = "preprocessor"
    on_labels: bool = False

    def volume(self) -> Volume:
        """Return the input; override it to test on another one."""
        return example_labels() if self.on_labels else example_image()

    def test_keeps_its_promise(self, tmp_path: Path) -> None:
        """The result has the promised shape and type, no NaN, and the input is untouched."""
        volume = self.volume()
        before = volume.read().copy()
        result = apply_in_memory(self.make(tmp_path), volume)
        np.testing.assert_array_equal(volume.read(), before)
        assert np.isfinite(result.read()).all()

    def test_does_not_depend_on_blocks(self, tmp_path: Path) -> None:
        """Blocks of 16, 20 and 13 x 21 x 34 voxels and one block for all give the same voxels."""
        step, volume = self.make(tmp_path), self.volume()
        whole = apply_in_memory(step, volume, block=max(volume.shape) * 2).read()
        for block in (16, 20, (13, 21, 34)):
            np.testing.assert_array_equal(apply_in_memory(step, volume, block=block).read(), whole)

    def test_fitted_step_travels(self, tmp_path: Path) -> None:
        """What `fit` returns pickles and works the same on the other side."""
        step, volume = self.make(tmp_path), self.volume()
        fitted = step.fit(volume, QUIET)
        copy = pickle.loads(pickle.dumps(fitted))
        box = fitted.output.box
        block = volume.read(fitted.needs(box), fitted.outside)
        np.testing.assert_array_equal(copy(block, box), fitted(block, box))


class AnnotatorKit(PluginKit):
    """An annotator honours every seed."""

    kind = "annotator"

    def test_honours_seeds(self, tmp_path: Path) -> None:
        """Voxels seeded as object are labelled 1, background 0; the result is uint8 of the box's shape."""
        image, labels = example_image(), example_labels().read()
        seeds = np.zeros(image.shape, np.uint8)
        middle = int(0.35 * image.shape[0])
        seeds[middle][labels[middle] == 1] = 1
        seeds[middle, :3] = 2
        seeds[0] = seeds[-1] = 2
        run = attrs.evolve(QUIET, scratch=tmp_path / "scratch")
        result = self.make(tmp_path).prepare(image, image.box, run)(seeds)
        assert result.shape == image.shape
        assert result.dtype == np.uint8
        assert set(np.unique(result)) <= {0, 1}
        assert (result[seeds == 1] == 1).all()
        assert (result[seeds == 2] == 0).all()


class SamplerKit(PluginKit):
    """A sampler draws boxes for ever, the same ones for the same seed."""

    kind = "sampler"

    def test_draws_valid_boxes(self, tmp_path: Path) -> None:
        """Boxes have the asked shape, touch their region, and come again from an equal generator."""
        regions = [
            Region("a", example_image(), example_labels()),
            Region("b", example_image((30, 30, 30)), example_labels((30, 30, 30))),
        ]
        shape = (8, 10, 12)
        drawn = [
            list(itertools.islice(self.make(tmp_path).boxes(regions, shape, np.random.default_rng(seed)), 50))
            for seed in (1, 1, 2)
        ]
        assert drawn[0] == drawn[1]
        assert drawn[0] != drawn[2]
        for index, box in drawn[0]:
            assert 0 <= index < len(regions)
            assert box.shape == shape
            assert not (box & regions[index].labels.box).is_empty


class ModelKit(PluginKit):
    """A model builds a network that knows its geometry, prepares labels, and makes objects of probabilities."""

    kind = "model"

    def test_network_knows_its_geometry(self, tmp_path: Path) -> None:
        """The smallest valid input gives the output shape that the network foretells, with two channels."""
        import torch

        network = self.make(tmp_path).network().eval()
        shape = network.input_shape(network.alignment)
        with torch.no_grad():
            result = network(torch.zeros(1, 1, *shape))
        assert tuple(result.shape[2:]) == tuple(network.output_shape(shape))
        assert result.shape[1] == 2

    def test_prepares_labels(self, tmp_path: Path) -> None:
        """Label steps and exclusion zone run on labels and keep their grid."""
        model, labels = self.make(tmp_path), example_labels()
        zone = model.exclusion_zone()
        for step in [*model.label_steps(), *([zone] if zone is not None else [])]:
            assert apply_in_memory(step, labels).shape == labels.shape

    def test_segments(self, tmp_path: Path) -> None:
        """A probability map becomes labels on the same grid; certain background stays background."""
        foreground = example_labels().read() > 0
        probability = Volume((foreground * 255).astype(np.uint8), 5.0)
        made = segment(probability, tmp_path / "cell.zarr" / "segmentation", QUIET, self.make(tmp_path))
        assert made.shape == probability.shape
        assert not made.read()[~foreground].any()


class AnalyzerKit(PluginKit):
    """An analyzer gives tables whose columns name their units, and takes an empty segmentation calmly."""

    kind = "analyzer"

    def inputs(self) -> tuple[Labels, Volume | None]:
        """Return segmentation and image; override it if the analysis needs a richer scene."""
        return example_labels(), example_image()

    def test_measures(self, tmp_path: Path) -> None:
        """Columns of a table have one length, and every column says what it is."""
        _check_analysis(self._analyze(tmp_path, *self.inputs()))

    def test_empty_segmentation(self, tmp_path: Path) -> None:
        """No objects: tables without rows and a note, not an error."""
        segmentation, raw = self.inputs()
        empty = Labels(np.zeros(segmentation.shape, np.uint8), segmentation.voxel_size_nm, segmentation.origin_nm)
        found = self._analyze(tmp_path, empty, raw)
        _check_analysis(found)
        assert found.notes

    def _analyze(self, tmp_path: Path, segmentation: Labels, raw: Volume | None) -> Analysis:
        found = self.make(tmp_path).analyze(segmentation, raw, attrs.evolve(QUIET, scratch=tmp_path / "scratch"))
        assert isinstance(found, Analysis)
        return found


KITS = {kit.kind: kit for kit in (SourceKit, PreprocessorKit, AnnotatorKit, SamplerKit, ModelKit, AnalyzerKit)}


def _check_analysis(analysis: Analysis) -> None:
    for name, table in analysis.tables.items():
        lengths = {len(column.values) for column in table.values()}
        assert len(lengths) <= 1, f"the columns of table '{name}' differ in length: {lengths}"
        assert all(column.about for column in table.values()), f"a column of table '{name}' does not say what it is"


def _expect_error(call: Any) -> None:
    try:
        call()
    except AsemError:
        return
    raise AssertionError("expected an AsemError")


def _toml(value: Any) -> Any:
    """Write an option as TOML would: lists for tuples, tables for attrs objects."""
    if isinstance(value, (tuple, list)):
        return [_toml(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Box):
        return str(value)
    if attrs.has(type(value)):
        return {f.name: _toml(getattr(value, f.name)) for f in attrs.fields(type(value))}
    return value
