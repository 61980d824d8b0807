"""The folder of a training run.

    recipe.toml        what was asked for          metrics.jsonl       one line a measurement
    provenance.json    what it was made from       checkpoints/        iteration_0001000.safetensors, ...
    state.pt           where to go on              pictures/           iteration_0001000.png, ...
    choice.json        which checkpoints to use    prepared/           labels as they are trained on
                                                   report.html, figures/, tables/, tensorboard/

Every file is written to a temporary name and moved, so a run killed at any moment leaves no half file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from asem_core.errors import BadInput, NoSpace, Option, OutputExists, is_full_disk
from asem_core.temporary import write_whole

if TYPE_CHECKING:
    import torch


@attrs.frozen
class RunFolder:
    """Paths and files of one training run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def state(self) -> Path:
        return self.path / "state.pt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def prepared(self) -> Path:
        return self.path / "prepared"

    def checkpoint(self, iteration: int) -> Path:
        return self.checkpoints / f"iteration_{iteration:07d}.safetensors"

    def picture(self, iteration: int) -> Path:
        return self.path / "pictures" / f"iteration_{iteration:07d}.png"

    def saved_iterations(self) -> list[int]:
        """List the checkpoints that are there, oldest first."""
        return sorted(int(p.stem.rpartition("_")[2]) for p in self.checkpoints.glob("iteration_*.safetensors"))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        with saved_whole(self.path / name) as half:
            half.write_text(text, encoding="utf-8")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the run's JSON files.

        Raises
        ------
        BadInput
            It is not there: this is not the folder of a training run, or the run has not got so far.
        """
        path = self.path / name
        if not path.is_file():
            raise BadInput(
                f"{path} does not exist. Is {self.path} the folder of a training run that has reached this point?"
            )
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def chosen(self, what: str = "predict_from") -> Path:
        """Name the checkpoint to predict with (`predict_from`) or to start fine-tuning from (`finetune_from`)."""
        return self.path / str(self.read_json("choice.json")[what])

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        with _enough_room(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_metrics(self, kind: str) -> list[dict[str, Any]]:
        """Read the lines of one kind ("train" or "validate"), oldest first."""
        if not self.metrics.exists():
            return []
        lines = [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [line for line in lines if line["kind"] == kind]

    def rewind(self, iteration: int) -> None:
        """Forget what was measured or saved after an iteration: it will be done again."""
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [s for s in lines if s.endswith("\n") and json.loads(s)["iteration"] <= iteration]
            with saved_whole(self.metrics) as half:
                half.write_text("".join(kept), encoding="utf-8")
        for later in self.saved_iterations():
            if later > iteration:
                self.checkpoint(later).unlink()

    def is_run(self) -> bool:
        """Tell whether a training run was begun here."""
        try:
            return bool(self.read_json("provenance.json").get("stage") == "train")
        except (BadInput, ValueError, AttributeError):
            return False

    def require_own(self, recipe: Path | None) -> None:
        """Refuse a folder of other files: a run is never mixed with them, and replaces none of them.

        Raises
        ------
        BadInput
            It is a file.
        OutputExists
            It holds other files than a run, or than what one writes first (`prepared`, and a copy of `recipe`).
        """
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"{self.path} is a file; a training run needs a folder. Choose another name for it.")
        if not self.path.exists() or self.is_run():
            return
        there = {p.name for p in self.path.iterdir() if not p.name.startswith(".")}
        copy = self.path / "recipe.toml"
        if recipe is not None and copy.is_file() and copy.read_bytes() == recipe.read_bytes():
            there.discard(copy.name)
        if others := sorted(there if there != {"prepared"} else ()):
            raise OutputExists(
                f"{self.path} contains files that do not belong to a training run ({', '.join(others[:3])}{', ...' if others[3:] else ''}), "
                "which are never replaced. Choose another folder: ",
                Option("output", shown="FOLDER"),
            )

    def forget_prepared(self) -> None:
        """Delete the labels that an earlier run prepared: those they were made from may have been edited since."""
        shutil.rmtree(self.prepared, ignore_errors=True)

    def forget_run(self) -> None:
        """Delete what an earlier run wrote, but not the labels that are prepared."""
        for part in ("checkpoints", "pictures", "tensorboard", "figures", "tables"):
            shutil.rmtree(self.path / part, ignore_errors=True)
        for part in ("state.pt", "metrics.jsonl", "choice.json", "report.html", "numbers.json", "made_by.json"):
            (self.path / part).unlink(missing_ok=True)

    def save_state(self, state: Mapping[str, Any]) -> None:
        import torch

        # torch's own writer tells of a full disk in riddles, and keeps the file open
        with saved_whole(self.state) as half, half.open("wb") as file:
            torch.save(dict(state), file)

    def load_state(self, device: torch.device) -> dict[str, Any]:
        if not self.state.is_file():
            raise BadInput(
                f"{self.path} holds no {self.state.name}: nothing to resume. Start the run without ",
                Option("resume"),
            )
        return load_state(self.state, device)

    def prune(self, keep: set[int]) -> None:
        """Delete the checkpoints of all other iterations."""
        for iteration in self.saved_iterations():
            if iteration not in keep:
                self.checkpoint(iteration).unlink()


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `RunFolder.save_state` saved."""
    import torch

    found: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return found


@contextmanager
def saved_whole(path: Path) -> Iterator[Path]:
    """Write a file of a run by `write_whole`; a full disk is told as `NoSpace`."""
    with _enough_room(path), write_whole(path) as half:
        yield half


@contextmanager
def _enough_room(path: Path) -> Iterator[None]:
    """Turn the system's "disk full" into words.

    Raises
    ------
    NoSpace
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if is_full_disk(error):
            raise NoSpace(
                f"The disk is full: {path} could not be written. What was saved before is complete. Free some space "
                "(with keep_last a run keeps fewer checkpoints), then run the same command again to resume."
            ) from error
        raise
