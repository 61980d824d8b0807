"""How good is nnU-Net v2 with its own plan, on the sets of `plan_accuracy.py`, the same labels and the same processor time?

    python benchmarks/nnunet.py SET [--minutes 10] [--speed 1.0] [--seed 0] [--memory-gb 8]

SET, `--minutes` and `--speed` are those of `plan_accuracy.py`; begin with OMP_NUM_THREADS=1. nnU-Net is not a dependency of ASEM: `pip install nnunetv2`
into an environment that has ASEM.

Each box of labels is a case of an nnU-Net dataset; where nobody annotated is nnU-Net's ignore label. nnU-Net's command plans and preprocesses
(`3d_fullres`; `2d` for single planes), and its trainer learns from all cases (fold `all`) with its own network, loss, optimizer and augmentation,
in one process, in float32, as nnU-Net computes on processors. Its learning rate follows its own polynomial, with the share of the budget that is spent
in place of the share of its 1000 epochs, so that the schedule ends when the time does; there are no validation epochs. The last weights predict with
its own predictor, whose patches overlap by half; this is not part of the budget, as in `plan_accuracy.py`.

`--memory-gb` is the GPU memory for which nnU-Net plans patch and batch (its option `-gpu_memory_target`, 8 for the network planned here): with less,
patches are smaller, and more iterations fit. At least one iteration is made, also where it takes longer than the budget: compare `spent_s` with `budget_s`.

Prints a row for the training, and one for the prediction without and one with nnU-Net's mirrors, which are its default: F1 where the softmax is above 0.5, and
at the best threshold on the scored planes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from _data import hardware
from plan_accuracy import CASES, Case, compare

from asem_core.evaluation.scores import Scores
from asem_core.volume import Box, Volume

DATASET = "Dataset001_ASEM"
IGNORED = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=CASES)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-gb", type=float, default=8.0)
    given = parser.parse_args()
    if importlib.util.find_spec("nnunetv2") is None:
        sys.exit("nnU-Net is not here. Install it into an environment that has ASEM: pip install nnunetv2")
    case = CASES[given.set](given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{kind}"] = str(folder / kind)
        os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1"}  # read when nnU-Net is imported
        write(case, folder / "raw" / DATASET)
        budget = given.minutes * 120 * given.speed
        trainer, row = learn(case, folder / "preprocessed" / DATASET, budget, given.seed, given.memory_gb)
        tell({"set": given.set, "memory_gb": given.memory_gb, "seed": given.seed} | row)
        trainer.set_deep_supervision_enabled(False)
        for mirrors in (False, True):
            tell({"mirrors": mirrors} | scores(compare(case, predicted(case, trainer, mirrors))))
    print(hardware())


def tell(row: dict[str, Any]) -> None:
    print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)


def write(case: Case, folder: Path) -> None:
    """Write each box that is learnt from as a case of an nnU-Net dataset."""
    import SimpleITK as sitk

    def save(array: np.ndarray, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(n) for n in reversed(case.voxel_size_nm)])
        sitk.WriteImage(image, path)

    boxes = [(part, box) for part in case.learnt for box in part.boxes]
    for number, (part, box) in enumerate(boxes):
        labels = part.labels[box.slices]
        save(part.image[box.slices], folder / "imagesTr" / f"box{number}_0000.nrrd")
        save(np.where(labels == 255, IGNORED, labels).astype(np.uint8), folder / "labelsTr" / f"box{number}.nrrd")
    names = {"background": 0, case.model: 1}
    if any((part.labels[box.slices] == 255).any() for part, box in boxes):
        names["ignore"] = IGNORED
    about = {"channel_names": {"0": "EM"}, "labels": names, "numTraining": len(boxes), "file_ending": ".nrrd"}
    (folder / "dataset.json").write_text(json.dumps(about))


def learn(case: Case, folder: Path, budget: float, seed: int, memory_gb: float) -> tuple[Any, dict[str, Any]]:
    """Plan, preprocess and train within `budget` seconds of processor time; return the trainer, and what it did."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    begun = processor_s()
    configuration = "2d" if all(box.shape[0] == 1 for part in case.learnt for box in part.boxes) else "3d_fullres"
    command = Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess")
    words = f"-d 1 -c {configuration} -npfp 1 -np 1 -gpu_memory_target {memory_gb}".split()
    subprocess.run([command, *words], check=True, env=os.environ | {"nnUNet_n_proc_DA": "1"})  # 0 is refused here
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    about = json.loads((folder / "dataset.json").read_text())
    trainer: Any = nnUNetTrainer(plans, configuration, "all", about, torch.device("cpu"))
    trainer.num_epochs = budget  # of the schedule, which is counted in seconds
    trainer.on_train_start()
    trainer.network.train()
    planned = spent = processor_s() - begun
    iterations, longest = 0, 0.0
    while spent + longest < budget:
        trainer.lr_scheduler.step(spent)
        trainer.train_step(next(trainer.dataloader_train))
        before, spent = spent, processor_s() - begun
        iterations, longest = iterations + 1, max(longest, spent - before)
    chosen = trainer.configuration_manager
    return trainer, {
        "nnunetv2": version("nnunetv2"),
        "torch": torch.__version__,
        "configuration": configuration,
        "patch": chosen.patch_size,
        "batch": chosen.batch_size,
        "spacing": chosen.spacing,
        "features": chosen.network_arch_init_kwargs["features_per_stage"],
        "iterations": iterations,
        "planned_s": round(planned),
        "spent_s": round(spent),
        "budget_s": round(budget),
    }


def processor_s() -> float:
    """Return the processor time of this process and of those that it waited for."""
    return sum(os.times()[:4])


def scores(counts: Scores) -> dict[str, float]:
    return {
        "f1_at_half": round(counts.at(0.5).f1, 4),
        "precision": round(counts.at(0.5).precision, 3),
        "recall": round(counts.at(0.5).recall, 3),
        "f1_best": round(counts.at(counts.best()).f1, 4),
        "best": round(counts.best(), 2),
    }


def predicted(case: Case, trainer: Any, mirrors: bool) -> Volume:
    """Predict what is scored, with as much of the image around it as fills a patch."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    image, box, patch = case.scored.image, case.scored.boxes[0], [1, 1, *trainer.configuration_manager.patch_size][-3:]
    missing = [max(0, p - n) for p, n in zip(patch, box.shape, strict=True)]
    seen = box.grow(missing) & Box.of_shape(image.shape)
    predictor = nnUNetPredictor(use_mirroring=mirrors, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    cut, about = image[seen.slices][None].astype(np.float32), {"spacing": list(case.voxel_size_nm)}
    _, softmax = predictor.predict_single_npy_array(cut, about, save_or_return_probabilities=True)
    found = np.zeros(image.shape, np.uint8)
    found[seen.slices] = (softmax[1] * 255).round()
    return Volume(found, case.voxel_size_nm)


if __name__ == "__main__":
    main()
