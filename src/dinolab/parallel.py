"""Several processes that train together: the process group, sums and gathers over its ranks, and parameters sharded over them.

Started by torchrun, each process (rank) has a device of its own and its share of every batch. With a single process, all functions
here return at once and change nothing.
"""

import os
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dinolab.errors import LostContact, UserError, reason

if TYPE_CHECKING:  # where it is used, it is imported by functions: it takes half a second
    from torch.distributed.device_mesh import DeviceMesh

# FSDP2 warns that a module's output must not be changed in place; nothing here does that
warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")

PATIENT = 20  # seconds of waiting for the other processes before a line says so
PATIENCE = timedelta(minutes=60)  # rank 0 evaluates while the others wait; a rank that dies is noticed at once


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched() -> int:
    """The number of processes that torchrun has started, whether or not they have joined the group yet."""
    missing = [name for name in ("RANK", "MASTER_ADDR") if name not in os.environ]
    count = from_environment("WORLD_SIZE", 1, usual="1")
    if len(missing) == 1 and count > 1:
        raise UserError(
            f"WORLD_SIZE={count} without {missing[0]}: start the processes with torchrun, which sets both; "
            "to train in one, unset WORLD_SIZE"
        )
    return 1 if missing else count  # some clusters set WORLD_SIZE alone


def alone() -> str:
    """A sentence for the log where this process trains by itself though several seem to be meant; else empty."""
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if (
            launched() == 1
            and os.environ.get(name, "1") != "1"
            and not ("RANK" in os.environ and "MASTER_ADDR" in os.environ)
        ):
            return f"{name}={os.environ[name]}, but this process trains alone: to train in several, start them with torchrun"
    return ""


def from_environment(name: str, low: int, high: int = 1 << 20, usual: str = "") -> int:
    """The whole number in one of torchrun's variables. Raises UserError where it is not from `low` to `high`."""
    text = os.environ.get(name, usual)
    if not text:
        raise UserError(f"{name} is missing: torchrun sets it; to train in one process, unset WORLD_SIZE")
    if not text.isdecimal() or len(text) > 9 or not low <= int(text) <= high:
        raise UserError(
            f"{name}={text}: a number from {low} to {high}, as torchrun sets it; to train in one process, unset {name}"
        )
    return int(text)


def refuse_many(verb: str) -> None:
    """Raises UserError where there are several processes, for a verb that runs in one."""
    if launched() > 1:
        raise UserError(f"{verb} runs in one process; start it without torchrun")


def local_rank() -> int:
    """The rank among the processes of this machine. Raises UserError where several train together and it is not set."""
    return from_environment("LOCAL_RANK", 0, usual="" if launched() > 1 else "0")


def local_world() -> int:
    return from_environment("LOCAL_WORLD_SIZE", 1, usual="1")


def choose_device(name: str, option: str = "run.device=") -> torch.device:
    """The device of this name; with several processes "auto" and "cuda" mean this process's own. Raises UserError if it is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if launched() > 1 and name != "cpu":
        if name != "cuda":
            raise UserError(f"{option}{name}: torchrun gives each process its own device; say cuda, cpu or auto")
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("one of auto, cpu, cuda, mps")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{option}{name}: not available here ({str(error).splitlines()[0]})") from error
    return device


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Inside, the processes that torchrun started are one group, each on its device.

    Raises LostContact when another one has gone: torchrun names it, and ends them all.
    """
    if device.type == "cuda" and device.index is not None:  # "cuda" is the current one
        torch.cuda.set_device(device)  # page-locked memory, too, belongs to the current one
    if launched() == 1 or dist.is_initialized():
        yield
        return
    join(device)
    try:
        yield
    except RuntimeError as error:
        if not lost_contact(error):
            raise
        raise LostContact(f"rank {rank()} stops: another process is gone; torchrun's report names the first") from error
    dist.destroy_process_group()  # not after an error: it would wait for processes that are gone


def join(device: torch.device) -> None:
    """Meet the other processes. Raises UserError where the variables that torchrun sets are wrong, or nobody can be met."""
    world = launched()
    from_environment("RANK", 0, world - 1)
    port = from_environment("MASTER_PORT", 1, 65535)
    place = f"{os.environ['MASTER_ADDR']}:{port}"
    waiting = (
        f"dinolab: waiting at {place} for {world} processes; torchrun starts them all, to train in one unset WORLD_SIZE"
    )
    said = threading.Timer(PATIENT, print, [waiting], {"file": sys.stderr, "flush": True})
    said.daemon = True
    said.start()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "cpu:gloo", timeout=PATIENCE)
    except (dist.DistError, ValueError, OSError) as error:
        raise UserError(
            f"the {world} processes cannot meet at MASTER_ADDR and MASTER_PORT, {place} ({reason(error)})"
        ) from error
    finally:
        said.cancel()


def lost_contact(error: BaseException) -> bool:
    """Whether an operation failed because another process ended in the middle of it."""
    return isinstance(error, dist.DistError) or any(
        sign in str(error) for sign in ("gloo", "Connection closed by peer")
    )


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Rank 0 finishes the block before the other ranks begin it: it writes files that they read."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and world() > 1:
        dist.barrier()


class _Sum(torch.autograd.Function):
    """All-reduce. Its gradient is the sum of all ranks' gradients, because each rank's loss depends on each rank's input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return cast(Tensor, _Sum.apply(grad))


def sum_over_ranks(x: Tensor) -> Tensor:
    return x if world() == 1 else cast(Tensor, _Sum.apply(x))


def max_over_ranks(x: Tensor) -> Tensor:
    """The largest value of all ranks, element by element, without gradient."""
    if world() > 1:
        x = x.detach().clone()
        dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


def gather_over_ranks(x: Tensor) -> Tensor:
    """The tensors (n, ...) of all ranks, which must have one shape, joined in the order of ranks: (world * n, ...).

    Gradients flow back to each rank.
    """
    if world() == 1:
        return x
    others = [x.new_zeros(x.shape) for _ in range(world())]
    others[rank()] = x
    return sum_over_ranks(torch.cat(others))


def collect(value: Any) -> list[Any]:
    """Every rank's value, any that can be pickled, in the order of ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def agree(signum: int) -> int:
    """The largest of all ranks' numbers. The hosts exchange it by themselves, without waiting for their devices."""
    if world() == 1:
        return signum
    seen = torch.tensor(signum)
    dist.all_reduce(seen, dist.ReduceOp.MAX)
    return int(seen)


def shard(networks: Iterable[nn.ModuleDict], sharding: str, device: torch.device, compute: torch.dtype | None) -> None:
    """Split the parameters of each network's parts over the ranks (FSDP2, arXiv 2304.11277), in place.

    Gradients are then averaged over ranks, in fp32; weights and optimizer state stay as they are.

    Args:
        sharding: "full": over all ranks; "hybrid": over those of a machine, with a copy on each machine; "none": a copy on each rank.
        compute: type that the blocks' weights are sent and used in, by default their own.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = make_mesh(sharding, device)
    reduce = torch.float32 if compute else None
    blocks_in = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=reduce, cast_forward_inputs=False)
    for network in networks:
        for block in blocks_of(network["backbone"]):
            fully_shard(block, mesh=mesh, mp_policy=blocks_in)
        for part in network.values():
            # the root too, or the teacher's average would meet whole parameters
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
            if hasattr(part, "compare"):
                register_fsdp_forward_method(part, "compare")


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer, which are alike; a convolutional network has none, whatever its parts are called."""
    blocks = getattr(network, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.ModuleList) else []


def make_mesh(sharding: str, device: torch.device) -> "DeviceMesh":
    from torch.distributed.device_mesh import init_device_mesh

    if sharding == "full":
        return init_device_mesh(device.type, (world(),))
    each = local_world() if sharding == "hybrid" else 1
    return init_device_mesh(device.type, (world() // each, each), mesh_dim_names=("replicate", "shard"))


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with every sharded tensor gathered; all ranks must call it together."""
    from torch.distributed.tensor import DTensor

    return {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in state.items()}
