"""A training step on tensors that have shapes but no values: its operations and its memory, without doing the work."""

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from dinolab.methods.base import Method
from dinolab.options import Config
from dinolab.parallel import blocks_of
from dinolab.precision import autocast, onednn_is_exact
from dinolab.runs.build import build_method
from dinolab.runs.noise import random_batch, values
from dinolab.training.loop import train_step
from dinolab.training.optim import make_optimizer

FEW, MORE = 32, 64  # images of the steps from which the memory of larger ones follows
COUNTED = 16  # images of the step whose operations are counted
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shapes:
    """What a step of a configuration costs. Memory of a step: rest + state + targets x images + activations x micro-batch."""

    flops: float  # for an image; a multiplication and an addition are two
    parameters: int  # trained
    state: float  # bytes of weights, gradients, the optimizer's moments and the teacher
    activations: float  # bytes for each image of a micro-batch
    targets: float  # bytes for each image of the whole step
    rest: float  # bytes: what the step needs besides, whatever its size; below 0 where not all of the state exists at the peak
    largest_part: float  # bytes in which the largest block or head is computed with: what sharding gathers at a time

    def bytes(self, images: int, micro_batch: int, shards: int = 1) -> float:
        """Estimate the peak of a step on one of `shards` devices that split the state."""
        gathered = self.largest_part if shards > 1 else 0.0
        return self.rest + self.state / shards + gathered + self.targets * images + self.activations * micro_batch


def step_shapes(cfg: Config, bf16: bool) -> Shapes:
    """Do a few steps without values, and derive the cost of any step from them."""
    _, few, state, method = do_step(cfg, FEW, FEW, bf16)
    peaks = {(FEW, FEW): few} | {sizes: do_step(cfg, *sizes, bf16)[1] for sizes in ((MORE, FEW), (MORE, MORE))}
    activations = (peaks[MORE, MORE] - peaks[MORE, FEW]) / (MORE - FEW)
    targets = (peaks[MORE, FEW] - peaks[FEW, FEW]) / (MORE - FEW)
    trained = sum(p.numel() for p in method.student.parameters() if p.requires_grad)
    parts = [part for network in method.networks for part in network.values()]
    blocks = [block for part in parts for block in blocks_of(part)]
    heads = [part for part in parts if not blocks_of(part)]
    largest = max(sum(p.numel() for p in part.parameters()) for part in [*blocks, *heads])
    state += 4 * trained  # the gradients
    rest = peaks[FEW, FEW] - state - FEW * (activations + targets)
    return Shapes(count_flops(cfg), trained, state, activations, targets, rest, largest * (2 if bf16 else 4))


def count_flops(cfg: Config) -> float:
    """Count the operations of a step for an image, with stochastic depth as configured."""
    cfg = replace(cfg, run=replace(cfg.run, attention="math"))  # operations of fused kernels are not all known
    return do_step(cfg, COUNTED, COUNTED, bf16=False, steps=1)[0] / COUNTED


def do_step(cfg: Config, images: int, micro_batch: int, bf16: bool, steps: int = 2) -> tuple[float, int, float, Method]:
    """Do steps without values; returns the operations and the peak of bytes of the last, the bytes after it, and the method.

    The second step differs from the first one: the optimizer's state exists while it computes.
    """
    optim = replace(cfg.optim, batch_size=images)
    attention = cfg.run.attention if cfg.run.attention == "math" else "sdpa"  # as flash, it keeps no matrix of weights
    run = replace(cfg.run, micro_batch=micro_batch, attention=attention, compile=False)
    cfg = replace(cfg, optim=optim, run=run)
    views, s = random_batch(cfg, CPU), values(cfg)
    onednn_is_exact()  # kept for later: it looks at values
    with torch.device("meta"):
        method = build_method(cfg, torch.device("meta"), fresh=False).train()
    counter, live = FlopCounterMode(display=False), LiveBytes()
    with FakeTensorMode(allow_non_fake_inputs=True), live:
        without_values(method)
        if method.pull:
            without_values(method.pull.start)
        optimizer = make_optimizer(method.student, cfg.optim)
        precision = autocast(CPU, torch.bfloat16 if bf16 else None)
        for _ in range(steps):
            live.peak = live.now
            with counter:  # counts anew each time
                train_step(method, optimizer, views, s, cfg.optim, precision)
    return float(counter.get_total_flops()), live.peak, float(live.now), method


def without_values(network: nn.Module) -> None:
    """Replace all parameters and buffers by ones of the same shape that count as the device's, in place."""
    for module in network.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that exist, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.note(x.untyped_storage())
        return out

    def note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.seen:  # else a view of a known one
            self.seen.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, key, storage.nbytes())

    def forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size
