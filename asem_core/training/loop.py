"""The training loop: blocks in, weights out, everything on the way written to the run's folder."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_core.engine.interrupt import held_back
from asem_core.errors import BadInput, Option, TrainingStopped
from asem_core.heads import Head
from asem_core.prediction.inference import is_out_of_memory
from asem_core.run_folder import RunFolder, load_state
from asem_core.training.augment import UNCHANGED
from asem_core.training.devices import Processes, autocast, half_precision, memory_layout
from asem_core.training.loss import total_loss
from asem_core.training.normalise import (
    NUM_MEASURED,
    add_normalisation,
    keep_output,
    measure_normalisation,
    without_normalisation,
)
from asem_core.training.options import OptimizerOptions, TrainOptions
from asem_core.training.pictures import fullest_tile, write_picture
from asem_core.training.progress import Progress
from asem_core.training.regime import fit_regime
from asem_core.training.setup import TrainingSetup
from asem_core.training.stream import BlockStream, Cut
from asem_core.training.targets import needs_of
from asem_core.training.validate import Forward, mirrored, summarise, tiles_of, validate
from asem_core.weights import copy_weights, read_metadata, save_weights

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("asem_core")

WORTH_IT = 0.002
"""Less gained in F1 is within what the watched part can tell: the model's own threshold stays."""

WORTH_EIGHT_TIMES = 0.005
"""Mirror images make prediction eight times slower: so much F1 they must gain on the watched part."""


def learn(
    setup: TrainingSetup,
    folder: RunFolder,
    processes: Processes,
    *,
    resume: bool,
    progress: bool = True,
    go_on_from: Path | None = None,
) -> None:
    """Train until the last iteration; every `checkpoint_every` iterations validate, save, and choose; at Ctrl-C, too.

    Parameters
    ----------
    go_on_from : the state of another run, whose network and optimizer are gone on with, from iteration 1

    Raises
    ------
    TrainingStopped
        The loss is no longer a number. The last good checkpoint stays.
    NoSpace
        The disk is full.
    """
    import torch

    options, device = setup.options, processes.device
    half = half_precision(options, device)
    network = add_normalisation(setup.network) if options.normalise else setup.network
    network = to_device(network, device, half).train()
    optimizer = make_optimizer(network, options.optimizer, device)
    # Without a saved state the same run begins at its begin: the result is the same, too.
    done = _restore(network, optimizer, folder, device) if resume and folder.state.is_file() else 0
    if done == 0 and go_on_from is not None:
        state = load_state(go_on_from, device)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    if processes.leads:
        if done:
            choose(folder, setup)  # what a run killed right after its state was saved did not come to
        else:
            folder.rewind(0)
    learner = processes.spread(torch.compile(network) if options.compile else network)
    tiles = tiles_of(setup.validation, options.block, options.validation_blocks)
    stated = setup.heads
    shown = fullest_tile(tiles) if tiles and processes.leads else None
    forward = _forward(network, half, device)

    stream = BlockStream(
        setup.sampler, setup.regions, options.block, setup.context, options.augment, options.seed, processes.rank,
        options.loss.ignore_exclusion, options.readers, needs_of(stated),
    )  # fmt: skip
    per_step = options.batch * options.accumulate
    unchanged = attrs.evolve(stream, augment=UNCHANGED)

    def images(first: int) -> Iterator[torch.Tensor]:
        return _images(islice(unchanged.cuts(max(0, first)), NUM_MEASURED), options.batch, device)

    if options.normalise and setup.fine_tuning and done == 0 and go_on_from is None:
        keep_output(network, forward, images(0), processes)
    cuts = stream.cuts(done * per_step)
    losses: deque[tuple[int, float, StepLoss]] = deque()
    with (
        Progress(
            folder, done, options.iterations, shown_to_user=progress and processes.leads, writes=processes.leads
        ) as log,
        held_back() as stop_asked,
    ):
        for iteration in range(done + 1, options.iterations + 1):
            rate = learning_rate(options.optimizer, iteration, options.iterations)
            for group in optimizer.param_groups:
                group["lr"] = rate
            blocks = list(islice(cuts, per_step))
            loss, options = step_within_memory(learner, optimizer, blocks, options, half, processes, stated)
            losses.append((iteration, rate, loss))
            stopping = processes.size == 1 and stop_asked()
            due = iteration % options.checkpoint_every == 0 or iteration == options.iterations or stopping
            # Read one step late, so that the device has work while it is read; at once, before weights are saved.
            while len(losses) > (0 if due else 1):
                number, its_rate, loss = losses.popleft()
                if not math.isfinite(loss.value):
                    raise TrainingStopped(_why_stopped(folder, number, loss))
                log.step(number, loss.value, its_rate, flush=due and not losses)
            ends = iteration == options.iterations or stopping
            if due:
                if ends and tiles:
                    log.phase("Validating")
                if options.normalise:
                    measure_normalisation(network, forward, images(iteration * per_step - NUM_MEASURED), processes)
                network.eval()
                mine = tiles[processes.rank :: processes.size]
                found = summarise(
                    *processes.add_up(*validate(forward, mine, setup.context, options.loss, device, stated)),
                    stated=stated,
                )
                numbers = found.to_metrics()
                if options.choose_mirrors and ends:
                    log.phase("Validating with mirror images")
                    turned = validate(mirrored(forward, stated), mine, setup.context, options.loss, device, stated)
                    numbers["mirrored"] = summarise(*processes.add_up(*turned), stated=stated).to_metrics()
                if processes.leads:
                    _require_finite(network, folder, iteration, found.loss)
                    if shown is not None:
                        log.validated(iteration, numbers)
                        write_picture(folder.picture(iteration), forward, shown, setup.context, device, stated)
                    plain = without_normalisation(network)
                    save_weights(folder.checkpoint(iteration), plain, {**setup.metadata, "iteration": iteration})
                    folder.save_state(_state(network, optimizer, iteration))
                    if ends:
                        by_threshold = options.choose_threshold and setup.by_threshold
                        log.phase(f"Choosing the {'threshold' if by_threshold else 'checkpoint'}")
                    choose(folder, setup)
                if stopping:
                    raise KeyboardInterrupt
                network.train()


def to_device(network: torch.nn.Module, device: torch.device, half: bool) -> torch.nn.Module:
    """Move a network; its weights are laid out as its convolutions are fastest."""
    import torch

    network.to(device)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 5:
            # Unlike `contiguous`, this gives the strides of the layout to a single channel, too.
            tensor.data = torch.empty_like(tensor.data, memory_format=memory_layout(half, device)).copy_(tensor.data)
    return network


def make_optimizer(network: torch.nn.Module, options: OptimizerOptions, device: torch.device) -> torch.optim.Adam:
    """Build Adam with the recipe's numbers.

    Raises
    ------
    BadInput
        The network has no parameters.
    """
    import torch

    if not any(True for _ in network.parameters()):
        raise BadInput(
            "This model's network has nothing to train: it was trained in another program. Choose another model."
        )
    return torch.optim.Adam(
        network.parameters(), options.learning_rate, weight_decay=options.weight_decay, fused=device.type == "cuda"
    )


def learning_rate(options: OptimizerOptions, iteration: int, iterations: int) -> float:
    """Say the step size of an iteration, counted from 1."""
    factor = min(1.0, iteration / (options.warmup + 1))
    if options.schedule == "cosine":
        factor *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (iteration - 1) / iterations))
    return options.learning_rate * factor


def initialise(network: torch.nn.Module, options: TrainOptions) -> None:
    """Draw the weights at the start of a run from its seed."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        for module in network.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                module.reset_parameters()
                if options.initialise == "he":
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)


def choose(folder: RunFolder, setup: TrainingSetup) -> None:
    """Write which checkpoints to use so far, and delete those that nobody needs."""
    options = setup.options
    saved = folder.saved_iterations()
    lines = folder.read_metrics("validate")
    regime = fit_regime([v["iteration"] for v in lines], [v["loss"] for v in lines], options.fit_window)
    best = max(lines, key=lambda v: -1.0 if v["f1"] is None else v["f1"])["iteration"] if lines else saved[-1]
    rule = ("best" if setup.fine_tuning else "fit") if options.choose == "auto" else options.choose
    rule = rule if lines else "last"
    wanted = {"fit": regime.middle if regime else saved[-1], "best": best, "last": saved[-1]}[rule]
    start = regime.first if regime else saved[-1]
    predict_from, finetune_from, best = (min(saved, key=lambda s: abs(s - w)) for w in (wanted, start, best))
    to_use = folder.checkpoint(predict_from)
    if options.choose_threshold or options.choose_mirrors:
        choose_threshold = options.choose_threshold and setup.by_threshold
        scores = next(v for v in lines if v["iteration"] == predict_from)
        to_use = _as_watched(folder, scores, choose_threshold, options.keep_threshold)
    folder.write_json(
        "choice.json",
        {
            "predict_from": str(to_use.relative_to(folder.path)),
            "finetune_from": str(folder.checkpoint(finetune_from).relative_to(folder.path)),
            "rule": rule,
            "best_iteration": best,
            "fit_regime": attrs.asdict(regime) if regime else None,
        },
    )
    if options.keep_last:
        folder.prune({*saved[-options.keep_last :], best, predict_from, finetune_from})


def _as_watched(folder: RunFolder, scores: Mapping[str, Any], choose_threshold: bool, kept: Sequence[str]) -> Path:
    """Write a checkpoint again with the threshold, and with mirrors, that were best on the watched part, where they are worth it."""
    checkpoint = folder.checkpoint(scores["iteration"])
    about = read_metadata(checkpoint)
    changed: dict[str, Any] = {}
    turned = scores.get("mirrored")
    if turned and (turned["best_f1"] or 0) - (scores["best_f1"] or 0) >= WORTH_EIGHT_TIMES:
        changed["mirrors"], scores = True, turned
    model = about.get("model", {})
    if choose_threshold and "maps" in scores:
        worth = {name: own for name, own in scores["maps"].items() if name not in kept and _is_worth_it(own)}
        chosen = {name: own["best_threshold"] for name, own in worth.items()}
        if chosen and "per_class" in model:
            noted = dict(model["per_class"])
            noted |= {name: {**noted.get(name, {}), "threshold": best} for name, best in chosen.items()}
            changed["model"] = {**model, "per_class": noted}
    elif choose_threshold and _is_worth_it(scores):
        changed["model"] = {**model, "threshold": scores["best_threshold"]}
    if not changed:
        return checkpoint
    return copy_weights(checkpoint, folder.path / "weights.safetensors", {**about, **changed})


def _is_worth_it(scores: Mapping[str, Any]) -> bool:
    """Tell whether another threshold than the model's own gains enough."""
    return (scores["best_f1"] or 0) - (scores["f1"] or 0) >= WORTH_IT


@attrs.frozen(eq=False)
class StepLoss:
    """The losses of one step's batches, still on the device; to look at them is to wait for it."""

    losses: Sequence[torch.Tensor]
    cuts: Sequence[Cut]

    @property
    def value(self) -> float:
        return float(np.mean(self._read()))

    @property
    def place(self) -> str:
        """Where the loss was worst."""
        values = self._read()
        worst, batch = int(np.argmin(np.isfinite(values))), len(self.cuts) // len(values)
        return " and ".join(cut.place for cut in self.cuts[worst * batch :][:batch])

    def _read(self) -> np.ndarray:
        import torch

        values: np.ndarray = torch.stack(list(self.losses)).cpu().numpy()
        return values


def step_within_memory(
    learner: Any,
    optimizer: torch.optim.Optimizer,
    cuts: Sequence[Cut],
    options: TrainOptions,
    half: bool,
    processes: Processes,
    stated: Sequence[Head] = (),
) -> tuple[StepLoss, TrainOptions]:
    """Change the weights once; where memory is short, with fewer blocks at a time and the same result.

    Returns
    -------
    the losses, and the options to go on with: `batch` times `accumulate` stays (batch normalisation, where it is used, sees
    fewer blocks at once)

    Raises
    ------
    TrainingStopped
        One block at a time is too much, or several processes train together.
    """
    import torch

    while True:
        try:
            return step(learner, optimizer, cuts, options, half, processes.device, stated), options
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            parts = next((p for p in range(2, options.batch + 1) if options.batch % p == 0), 0)
            if not parts or processes.size > 1:
                raise TrainingStopped(
                    f"There is not enough memory on {processes.device} for {options.batch} blocks of {list(options.block)} voxels "
                    "at once. Use a smaller block, or a smaller batch with accumulate, or free memory; ",
                    Option("resume", True),
                    " continues from the last checkpoint.",
                ) from error
        # Only now the exception, and with it every map that its frames held, is gone.
        optimizer.zero_grad(set_to_none=True)
        if processes.device.type == "cuda":
            torch.cuda.empty_cache()
        options = attrs.evolve(options, batch=options.batch // parts, accumulate=options.accumulate * parts)
        logger.warning(
            "Out of memory on %s: from here on blocks at a time: %d, gradients summed over: %d; the result is the same.",
            processes.device, options.batch, options.accumulate,
        )  # fmt: skip


def step(
    learner: Any,
    optimizer: torch.optim.Optimizer,
    cuts: Sequence[Cut],
    options: TrainOptions,
    half: bool,
    device: torch.device,
    stated: Sequence[Head] = (),
) -> StepLoss:
    """Change the weights once."""
    import torch

    optimizer.zero_grad(set_to_none=True)
    losses = []
    for n in range(options.accumulate):
        part = [cut.to_tensors(device) for cut in cuts[n * options.batch : (n + 1) * options.batch]]
        image = torch.stack([image for image, _ in part]).contiguous(memory_format=memory_layout(half, device))
        with _without_sync(learner, last=n == options.accumulate - 1):
            with autocast(half, device):
                output = learner(image)
            labels = {need: torch.stack([own[need] for _, own in part]) for need in part[0][1]}
            loss = total_loss(output, labels, stated, options.loss)
            (loss / options.accumulate).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    if options.optimizer.clip_norm:
        torch.nn.utils.clip_grad_norm_(learner.parameters(), options.optimizer.clip_norm)
    optimizer.step()
    return StepLoss(losses, cuts)


def _images(cuts: Iterable[Cut], batch: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield the images of blocks, `batch` at a time."""
    import torch

    rest = iter(cuts)
    while part := list(islice(rest, batch)):
        yield torch.stack([cut.to_tensors(device)[0] for cut in part])


def _without_sync(learner: Any, *, last: bool) -> AbstractContextManager[Any]:
    """Average gradients over the processes only with the last of several accumulated blocks."""
    return nullcontext() if last or not hasattr(learner, "no_sync") else learner.no_sync()


def _forward(network: torch.nn.Module, half: bool, device: torch.device) -> Forward:
    def forward(image: torch.Tensor) -> torch.Tensor:
        with autocast(half, device):
            result: torch.Tensor = network(image.contiguous(memory_format=memory_layout(half, device)))
        return result

    return forward


def _state(network: torch.nn.Module, optimizer: torch.optim.Optimizer, iteration: int) -> dict[str, Any]:
    return {"iteration": iteration, "network": network.state_dict(), "optimizer": optimizer.state_dict()}


def _restore(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: RunFolder, device: torch.device
) -> int:
    """Take weights and optimizer from the last saved state; returns its iteration."""
    state = folder.load_state(device)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    folder.rewind(state["iteration"])
    return int(state["iteration"])


def _require_finite(network: torch.nn.Module, folder: RunFolder, iteration: int, validation_loss: float) -> None:
    """Refuse to save a broken network over the state of a good one."""
    broken = [name for name, tensor in network.state_dict().items() if not bool(tensor.isfinite().all())]
    if broken or not math.isfinite(validation_loss):
        what = f"the weights '{broken[0]}' are" if broken else "the validation loss is"
        raise TrainingStopped(f"At iteration {iteration} {what} no longer finite. {_advice(folder)}")


def _why_stopped(folder: RunFolder, iteration: int, loss: StepLoss) -> str:
    return f"The loss became {loss.value} at iteration {iteration}, in the block {loss.place}. {_advice(folder)}"


def _advice(folder: RunFolder) -> str:
    saved = folder.saved_iterations()
    last = f"The last good checkpoint is {folder.checkpoint(saved[-1])}." if saved else "No checkpoint was saved yet."
    return f"{last} Look for values that are not finite in the image, or lower learning_rate, then start again from it."
