"""AdamW, SGD or LARS, with the parameter groups of DINO and DINOv2."""

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

from dinolab.options import Optim
from dinolab.training.lars import LARS
from dinolab.training.phases import StepValues

# parameters below the first block share a learning rate
BELOW_BLOCKS = ("patch_embed", "pos_embed", "cls_token", "mask_token", "register_tokens", "conv_stem", "conv1", "bn1")
# a block of a ViT, or a stage of an EfficientNet; a stage of a ResNet, from 1; and nothing of a ViT's stem
BLOCK = re.compile(r"backbone\.(?:blocks\.(\d+)|layer(\d+))\.")


def make_optimizer(student: nn.Module, cfg: Optim, parts: Iterable[str] = ()) -> torch.optim.Optimizer:
    """One group for each pair of factors on the learning rate and on the weight decay, and for each part that is frozen at times.

    Parameters that take no gradient, those of a frozen stem, are left out. The state exists from the start, so that a checkpoint
    has the same entries at every step.

    Args:
        parts: words, such as "backbone": a parameter belongs to the first of them that is in its name.
    """
    depth = 1 + max(
        (block for name, _ in student.named_parameters() if (block := block_of(name)) is not None), default=-1
    )
    groups: dict[tuple[float, float, str], list[nn.Parameter]] = {}
    for name, p in trained(student).items():
        decayed = float(p.ndim > 1)  # biases, norms and LayerScale are vectors
        part = next((word for word in parts if word in name), "")
        lr = lr_factor(name, depth, cfg) * (1.0 if decayed else cfg.bias_lr)
        groups.setdefault((lr, decayed, part), []).append(p)
    described = [
        {"params": params, "lr_factor": lr, "decay_factor": decay, "part": part}
        for (lr, decay, part), params in groups.items()
    ]
    if cfg.name != "adamw":
        sharded = isinstance(next(student.parameters()), DTensor)  # which have no fused step
        with_momentum = (
            LARS(described, cfg.betas[0], cfg.trust)
            if cfg.name == "lars"
            else torch.optim.SGD(described, momentum=cfg.betas[0], fused=not sharded)
        )
        for p in trained(student).values():
            with_momentum.state[p] = {"momentum_buffer": torch.zeros_like(p)}
        return with_momentum
    optimizer = torch.optim.AdamW(described, betas=(cfg.betas[0], cfg.betas[1]), fused=True)
    for p in trained(student).values():
        optimizer.state[p] = {
            "step": torch.zeros((), dtype=torch.float32, device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
    return optimizer


def trained(student: nn.Module) -> dict[str, nn.Parameter]:
    """Its parameters that take a gradient, by name; the others, such as those of frozen batch norm, need no state."""
    return {name: p for name, p in student.named_parameters() if p.requires_grad}


def block_of(name: str) -> int | None:
    """The block of a transformer that a parameter belongs to, or the stage of a convolutional network, from 0."""
    match = BLOCK.match(name)
    return None if match is None else int(match[1]) if match[1] else int(match[2]) - 1


def lr_factor(name: str, depth: int, cfg: Optim) -> float:
    """layer_decay ** (levels below the top): heads and final norm 1, the last block one level down, the embeddings lowest."""
    if not name.startswith("backbone."):
        return 1.0
    block = block_of(name)
    if block is not None:
        return cfg.layer_decay ** (depth - block)
    if any(part in name for part in BELOW_BLOCKS):
        own = cfg.stem_lr if "patch_embed.stem." in name else cfg.patch_embed_lr if "patch_embed" in name else 1.0
        return cfg.layer_decay ** (depth + 1) * own
    return 1.0


def optimizer_step(optimizer: torch.optim.Optimizer, student: nn.ModuleDict, s: StepValues, cfg: Optim) -> Tensor:
    """One step with this step's learning rate and weight decay; returns the gradient's norm before clipping.

    Parts that are frozen by their gradient are not touched, their state neither, and they do not count in the norm. With
    optim.nan=skip, nothing is touched where the norm is not finite: the host has to wait for the device to see that.
    """
    for group in optimizer.param_groups:
        frozen = s.frozen.get(group["part"])
        group["lr"] = 0.0 if frozen == "lr" else s["lr"] * group["lr_factor"]
        group["weight_decay"] = s["weight_decay"] * group["decay_factor"]
        if frozen == "gradient":
            for p in group["params"]:
                p.grad = None
    norm = clip_gradients([p for group in optimizer.param_groups for p in group["params"]], student, cfg)
    if cfg.nan != "skip" or norm.isfinite():
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def clip_gradients(params: list[nn.Parameter], student: nn.ModuleDict, cfg: Optim) -> Tensor:
    """Clip, in place, what optim.clip_by names, each by its own norm; returns the norm of the whole gradient before."""
    clipped = {
        "whole": lambda: [params],
        "network": lambda: [list(network.parameters()) for network in student.values()],
        "parameter": lambda: [[p] for p in params if p.grad is not None],
    }[cfg.clip_by]()
    norms = [clip_grad_norm_(part, cfg.clip or math.inf) for part in clipped]
    norms = [n.full_tensor() if isinstance(n, DTensor) else n for n in norms]  # of sharded parameters
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
