"""ASEM's thin core: the nouns, the six plugin contracts, discovery, and the flow from image to numbers.

For notebooks and scripts: `open`, `prepare`, `predict`, `segment`, `measure` and `show` (see `api`).

What a plugin may import is here, in the modules beside this file, in `voxels` and in `testing`; the other folders are the
core's own rooms and change without notice. Names load when they are asked for: importing this costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asem_core.api import Cell as Cell
    from asem_core.api import measure as measure
    from asem_core.api import open as open
    from asem_core.api import predict as predict
    from asem_core.api import prepare as prepare
    from asem_core.api import segment as segment
    from asem_core.api import show as show
    from asem_core.blocks import Run as Run
    from asem_core.cell.apply import apply as apply
    from asem_core.cell.apply import apply_in_memory as apply_in_memory
    from asem_core.cell.apply import apply_lazily as apply_lazily
    from asem_core.cell.node import layers as layers
    from asem_core.cell.place import cell_work_folder as cell_work_folder
    from asem_core.cell.provenance import identity as identity
    from asem_core.cell.provenance import made_by as made_by
    from asem_core.cell.pyramid import write_multiscale as write_multiscale
    from asem_core.cell.store import open_volume as open_volume
    from asem_core.engine.machine import available_cores as available_cores
    from asem_core.evaluation.scores import exclusion_of as exclusion_of
    from asem_core.evaluation.scores import score as score
    from asem_core.prediction.trained import trained_of_card as trained_of_card
    from asem_core.results import Measured as Measured
    from asem_core.results import Picture as Picture
    from asem_core.stages.analyze import analyze as analyze
    from asem_core.stages.annotate import BACKGROUND as BACKGROUND
    from asem_core.stages.annotate import OBJECT as OBJECT
    from asem_core.stages.annotate import Cut as Cut
    from asem_core.stages.annotate import Layer as Layer
    from asem_core.stages.annotate import annotate as annotate
    from asem_core.stages.annotate import check_seeds as check_seeds
    from asem_core.stages.annotate import cut as cut
    from asem_core.stages.annotate import image_of as image_of
    from asem_core.stages.annotate import open_for_painting as open_for_painting
    from asem_core.stages.correct import object_at as object_at
    from asem_core.stages.evaluate import EvaluateOptions as EvaluateOptions
    from asem_core.stages.evaluate import Pair as Pair
    from asem_core.stages.evaluate import evaluate as evaluate
    from asem_core.stages.foreign_labels import Reading as Reading
    from asem_core.stages.foreign_labels import labels_in as labels_in
    from asem_core.stages.foreign_labels import require_ids as require_ids
    from asem_core.stages.import_ import choose_source as choose_source
    from asem_core.stages.import_ import import_volume as import_volume
    from asem_core.stages.instances import ByAffinities as ByAffinities
    from asem_core.stages.instances import ByContacts as ByContacts
    from asem_core.stages.instances import Enclosed as Enclosed
    from asem_core.stages.instances import PartedByShape as PartedByShape
    from asem_core.stages.learning import finish_cell as finish_cell
    from asem_core.stages.learning import keep_learning as keep_learning
    from asem_core.stages.learning import look_at as look_at
    from asem_core.stages.learning import to_keep as to_keep
    from asem_core.stages.learning import warm_up as warm_up
    from asem_core.stages.loop import Session as Session
    from asem_core.stages.proofread import Edit as Edit
    from asem_core.stages.proofread import apply_edits as apply_edits
    from asem_core.stages.proofread import edit_layer as edit_layer
    from asem_core.stages.proofread import open_proofread as open_proofread
    from asem_core.stages.proofread import undo_edits as undo_edits
    from asem_core.stages.rounds import LoopOptions as LoopOptions
    from asem_core.stages.segment import Segmentation as Segmentation
    from asem_core.stages.segment import threshold_objects as threshold_objects
    from asem_core.stages.suggest import Place as Place
    from asem_core.stages.suggest import suggest as suggest
    from asem_core.stages.train import read_training_recipe as read_training_recipe
    from asem_core.stages.train import train as train
    from asem_core.stages.trial import cut_piece as cut_piece
    from asem_core.stages.trial import predict_piece as predict_piece
    from asem_core.stages.trial import score_on as score_on
    from asem_core.training.rounds import Round as Round
    from asem_core.viewing.colours import as_rgba as as_rgba
    from asem_core.viewing.scene import open_layers as open_layers

PUBLIC = {
    "open": "api",
    "prepare": "api",
    "predict": "api",
    "segment": "api",
    "measure": "api",
    "show": "api",
    "Cell": "api",
    "Measured": "results",
    "Picture": "results",
    "Run": "blocks",
    "identity": "cell.provenance",
    "made_by": "cell.provenance",
    "layers": "cell.node",
    "open_volume": "cell.store",
    "write_multiscale": "cell.pyramid",
    "available_cores": "engine.machine",
    "exclusion_of": "evaluation.scores",
    "score": "evaluation.scores",
    "analyze": "stages.analyze",
    "annotate": "stages.annotate",
    "BACKGROUND": "stages.annotate",
    "OBJECT": "stages.annotate",
    "Cut": "stages.annotate",
    "Layer": "stages.annotate",
    "check_seeds": "stages.annotate",
    "cut": "stages.annotate",
    "image_of": "stages.annotate",
    "open_for_painting": "stages.annotate",
    "object_at": "stages.correct",
    "EvaluateOptions": "stages.evaluate",
    "Pair": "stages.evaluate",
    "evaluate": "stages.evaluate",
    "cell_work_folder": "cell.place",
    "as_rgba": "viewing.colours",
    "open_layers": "viewing.scene",
    "Reading": "stages.foreign_labels",
    "labels_in": "stages.foreign_labels",
    "require_ids": "stages.foreign_labels",
    "choose_source": "stages.import_",
    "import_volume": "stages.import_",
    "ByAffinities": "stages.instances",
    "ByContacts": "stages.instances",
    "Enclosed": "stages.instances",
    "PartedByShape": "stages.instances",
    "apply": "cell.apply",
    "apply_in_memory": "cell.apply",
    "finish_cell": "stages.learning",
    "keep_learning": "stages.learning",
    "look_at": "stages.learning",
    "to_keep": "stages.learning",
    "warm_up": "stages.learning",
    "LoopOptions": "stages.rounds",
    "Place": "stages.suggest",
    "Round": "training.rounds",
    "Session": "stages.loop",
    "suggest": "stages.suggest",
    "Edit": "stages.proofread",
    "apply_edits": "stages.proofread",
    "edit_layer": "stages.proofread",
    "open_proofread": "stages.proofread",
    "undo_edits": "stages.proofread",
    "apply_lazily": "cell.apply",
    "Segmentation": "stages.segment",
    "threshold_objects": "stages.segment",
    "read_training_recipe": "stages.train",
    "train": "stages.train",
    "cut_piece": "stages.trial",
    "predict_piece": "stages.trial",
    "score_on": "stages.trial",
    "trained_of_card": "prediction.trained",
}
"""What of the core's rooms anybody may use -> the module that holds it."""


def __getattr__(name: str) -> Any:
    """Load a public name, or look up `__version__`, when it is asked for."""
    if name in PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{PUBLIC[name]}"), name)
    if name != "__version__":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("asem-core")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC, "__version__"])
