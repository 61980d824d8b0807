"""Run torch code on a device that computes nothing, and note every operation: what a GPU would be asked to do."""

from __future__ import annotations

import weakref
from collections import Counter
from functools import cache
from pathlib import Path

import torch
import torchgen
import yaml
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ELSEWHERE = torch.device("meta")
"""Stands for the GPU: shapes, types, devices and lifetimes are followed, values are not."""


class Trace(TorchDispatchMode):
    """Notes the operations on `ELSEWHERE`.

    operations : names with their overloads, and how often each ran
    transfers : how often data went from one device to the other, (to the device, back)
    mixed : operations that were given maps of more than one device
    types : of floating numbers that were computed with there
    peak : bytes that were alive there at once, at most, beyond what was before
    """

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.operations, self.mixed, self.types = Counter(), [], set()
        self.to_device = self.from_device = 0
        self.live = self.peak = 0
        self._known = set()

    def __enter__(self):
        self.fake.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        return self.fake.__exit__(*error)

    def restart_peak(self):
        """Count live memory from here."""
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        made = function(*args, **(kwargs or {}))
        results = [t for t in tree_leaves(made) if isinstance(t, torch.Tensor)]
        # A number without axes from the CPU is taken by a GPU's kernels, too.
        before = {t.device for t in given if t.dim() or t.device == ELSEWHERE}
        after = {t.device for t in results}
        copies = function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if copies and len(devices := before | after) > 1:
            source = given[-1] if function.overloadpacket is torch.ops.aten.copy_ else given[0]
            if source.device == ELSEWHERE:
                self.from_device += 1
            else:
                self.to_device += 1
        elif len(devices := before | after) > 1:
            self.mixed.append(f"{function}: {sorted(map(str, devices))}")
        if ELSEWHERE in devices:
            if function.namespace == "aten":
                self.operations[str(function).removeprefix("aten.")] += 1
            self.types |= {t.dtype for t in results if t.is_floating_point() and t.device == ELSEWHERE}
            for tensor in results:
                self._count(tensor)
        return made

    def _count(self, tensor):
        if tensor.device != ELSEWHERE or not isinstance(tensor, FakeTensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key, size):
        self._known.discard(key)
        self.live -= size


@cache
def kernels():
    """By operation, the backends that torch's own table names a kernel for; None where one serves all."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    table = {}
    delegates = {}
    for entry in yaml.safe_load(path.read_text()):
        name = entry["func"].split("(")[0]
        if "structured_delegate" in entry:
            delegates[name] = entry["structured_delegate"]
        table[name] = {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}
        if "ufunc_inner_loop" in entry:  # made for these two by a generator
            table[name] |= {"CPU", "CUDA"}
        if "dispatch" not in entry or any(key.startswith("Composite") for key in table[name]):
            table[name] = None  # made of other operations
    for name, other in delegates.items():
        table[name] = table[other]
    return table


def without_kernel(operations, backend):
    """Say which of the operations (`add.Tensor`) have none for a backend ("CUDA", "MPS")."""
    missing = []
    for operation in operations:
        name, _, overload = operation.partition(".")
        found = kernels().get(name if overload in ("", "default") else operation, set())
        if found is not None and backend not in found:
            missing.append(operation)
    return missing
