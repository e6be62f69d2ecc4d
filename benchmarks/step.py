"""Compare dinolab's DINOv2 step with a plain one: images per second, and how far losses and gradients differ.

    python benchmarks/step.py [--rounds 3] [--config NAME] [--out docs/results/step.json] [key=value ...]

The plain step is the one that is easiest to write:

- Every view of the batch goes through the student in a forward of its own.
- Stochastic depth computes every branch, and multiplies it by 0 or by one over the share that is kept.
- Every pair of views has its own cross-entropy, by log_softmax.
- Sinkhorn-Knopp computes a new matrix in every iteration.
- Clipping, AdamW and the teacher's update loop over the parameters.

"plain" runs iBOT's head on every patch and multiplies by the mask; "plain, masked patches picked" runs it on the masked patches only.
All of them use PyTorch's fused attention kernel.

The steps take turns, round by round, in one process, with the same weights, views and random draws. The default is DINOv2 with a
ViT-S/14, batch 8, 2 x 224 + 8 x 98 pixels, fp32, on the CPU, without and with stochastic depth; with Sinkhorn-Knopp, two heads of
65,536 prototypes, and clipping of the whole gradient. That takes about 5 minutes on 2 cores.

Shapes: B images, N patches, D width of a feature, K prototypes.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from dinolab.data.digits import make_scenes
from dinolab.data.loader import batches
from dinolab.data.sources import open_source
from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.losses import koleo
from dinolab.machine import environment
from dinolab.methods.dinov2 import DINOv2
from dinolab.models.encoder import normalise
from dinolab.models.layers import draw_kept
from dinolab.models.vit import ViT, depth_rates
from dinolab.options import Config
from dinolab.recipes import load_config
from dinolab.runs.build import assemble, needs_of
from dinolab.training.optim import optimizer_step
from dinolab.training.phases import StepValues

SEED = 7  # of the random draws of a step
PLAIN = ["loss.targets=sinkhorn", "ibot_head.separate=true", "optim.clip_by=whole"]  # what the plain step has


def plain_vit(vit: ViT, images: Tensor, mask: Tensor | None, factors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute class tokens (B, D) and patch tokens (B, N, D).

    Args:
        vit: the network.
        images: (B, 3, H, W), normalised.
        mask: bool (B, N), True where a patch is replaced by the mask token.
        factors: for each of the 2 x depth branches the factor of each image, (B,).
    """
    x, _ = vit.embed(images, mask)
    for block, a, m in zip(vit.blocks, factors[::2], factors[1::2]):
        q, k, v = (t.transpose(1, 2) for t in block.attn.split_heads(block.norm1(x)))
        branch = block.attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + a[:, None, None] * block.ls1(branch)
        x = x + m[:, None, None] * block.ls2(block.mlp(block.norm2(x)))
    x = vit.norm(x)
    return x[:, 0], x[:, 1 + vit.cfg.registers :]


def plain_sinkhorn(logits: Tensor, counts: Tensor, temperature: float, iterations: int) -> Tensor:
    """Compute targets (n, K) from logits (n, K); samples whose count is 0 are left out."""
    q = ((logits - logits.max()) / temperature).exp() * counts[:, None]
    for _ in range(iterations):
        q = q / (q.sum(0, keepdim=True) * q.shape[1])
        q = q / q.sum(1, keepdim=True).clamp_min(1e-30)
    return q


def depth_factors(vit: ViT, views: Views) -> list[list[Tensor]]:
    """Return the factor of each image, for each view and each branch, from the draws of dinolab's step with the same seed."""
    b, drop = len(views.indices), vit.cfg.drop_path
    number = 2 + len(views.local_crops)
    if not drop:
        return [[torch.ones(b)] * (2 * len(vit.blocks))] * number
    crops = [views.global_crops.flatten(0, 1), views.local_crops.flatten(0, 1)]
    with torch.no_grad():
        _, packing, _ = vit.pack([normalise(x) for x in crops])
    torch.manual_seed(SEED)
    out: list[list[Tensor]] = [[] for _ in range(number)]
    for kept in draw_kept(packing, depth_rates(vit.cfg, len(vit.blocks)), vit.cfg.drop_path_rates == "rounded"):
        branches = ((kept.attn_rows, kept.attn_scale), (kept.mlp_rows, kept.mlp_scale)) if kept else [None] * 2
        for branch in branches:
            of_token = torch.zeros(packing.tokens, 1).index_add(0, *branch) if branch else torch.ones(packing.tokens, 1)
            of_crop = torch.cat([run[:, 0, 0] for run in packing.split(of_token)])
            for v, factor in enumerate(of_crop.view(number, b)):
                out[v].append(factor)
    return out


def plain_loss(method: DINOv2, views: Views, s: StepValues, every_patch: bool, factors: list[list[Tensor]]) -> Tensor:
    student, teacher, options = method.student, method.teacher, method.loss_options
    assert views.masks is not None
    images = [normalise(x) for x in (*views.global_crops, *views.local_crops)]
    masks = list(views.masks)
    b, pairs = len(views.indices), 2 + 2 * len(views.local_crops)
    picked = torch.ones(b, len(masks[0][0]), dtype=torch.bool)

    def patches(tokens: Tensor, mask: Tensor) -> Tensor:
        return tokens.flatten(0, 1) if every_patch else tokens[mask]

    with torch.no_grad():
        always = [torch.ones(b)] * len(factors[0])
        seen = [plain_vit(teacher["backbone"], image, None, always) for image in images[:2]]
        sinkhorn = partial(plain_sinkhorn, temperature=s["teacher_temperature"], iterations=options.sinkhorn_iterations)
        t_cls = sinkhorn(teacher["head"](torch.cat([cls for cls, _ in seen])), torch.ones(2 * b)).chunk(2)
        t_patch = teacher["ibot_head"](torch.cat([patches(p, m) for (_, p), m in zip(seen, masks)]))
        taken = torch.cat([patches(m[..., None], m)[:, 0] for m in masks])
        targets = sinkhorn(t_patch, taken.float())

    outs = [
        plain_vit(student["backbone"], *view)
        for view in zip(images, [*masks, *[None] * len(views.local_crops)], factors)
    ]
    log_p = [(student["head"](cls) / options.student_temperature).log_softmax(-1) for cls, _ in outs]
    dino = sum(-(t_cls[t] * log_p[v]).sum(-1).mean() for t in range(2) for v in range(len(log_p)) if v != t) / pairs

    logits = student["ibot_head"](torch.cat([patches(p, m) for (_, p), m in zip(outs, masks)]))
    each = -(targets * (logits / options.student_temperature).log_softmax(-1)).sum(-1)
    weight = torch.cat(
        [patches((m / m.sum(1, keepdim=True).clamp_min(1)).expand_as(picked)[..., None], m)[:, 0] for m in masks]
    )
    ibot = (each * weight).sum() / (2 * b)
    return dino + options.ibot * ibot + options.koleo * (koleo(outs[0][0]) + koleo(outs[1][0]))


class Rig:
    """A method, its optimizer and one batch."""

    def __init__(self, cfg: Config, scenes: Path):
        source = open_source(str(scenes / "train"))
        self.cfg = cfg
        phase, _, self.method, self.optimizer = assemble(cfg, source)
        (self.views,) = next(batches(source, cfg, 0, 1, workers=0, needs=needs_of(cfg)))
        self.method.train()
        self.s = phase(phase.total // 2)
        self.factors = depth_factors(self.method.student["backbone"], self.views)

    def ours(self) -> Tensor:
        torch.manual_seed(SEED)
        (targets,) = self.method.targets([self.views], self.s)
        return self.method.loss(self.views, targets, self.s)[0]

    def plain(self, every_patch: bool) -> Tensor:
        return plain_loss(self.method, self.views, self.s, every_patch, self.factors)

    def step(self, loss: Callable[[], Tensor], slow_updates: bool) -> float:
        """Measure a whole step, in seconds."""
        began = time.perf_counter()
        loss().backward()
        if not slow_updates:
            optimizer_step(self.optimizer, self.method.student, self.s, self.cfg.optim)
            self.method.after_step(self.s)
            return time.perf_counter() - began
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = (
                self.s["lr"] * group["lr_factor"],
                self.s["weight_decay"] * group["decay_factor"],
            )
            group["fused"], group["foreach"] = False, False
        clip_grad_norm_(self.method.student.parameters(), self.cfg.optim.clip, foreach=False)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:
            group["fused"] = True
        with torch.no_grad():
            for ours, theirs in zip(self.method.teacher.parameters(), self.method.student.parameters()):
                ours.mul_(self.s["momentum"]).add_(theirs, alpha=1 - self.s["momentum"])
        return time.perf_counter() - began


def compare(rig: Rig, every_patch: bool) -> dict[str, float]:
    """Compute the relative differences of loss and gradient between dinolab's step and the plain one."""
    found = []
    for loss in (rig.ours, partial(rig.plain, every_patch)):
        rig.method.zero_grad()
        value = loss()
        value.backward()
        found.append(
            (value.item(), {n: p.grad.clone() for n, p in rig.method.student.named_parameters() if p.grad is not None})
        )
    rig.method.zero_grad()
    (ours, g), (plain, h) = found
    norm = torch.stack([x.norm() for x in h.values()]).norm().item()
    apart = torch.stack([(g[n] - h[n]).norm() for n in h]).norm().item()
    return {"loss": abs(ours - plain) / abs(plain), "gradient": apart / norm, "same_parameters": g.keys() == h.keys()}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--config", default="dinov2_vits14")
    args.add_argument("options", nargs="*", metavar="key=value")
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--out", type=Path, default=Path("docs/results/step.json"))
    options = args.parse_intermixed_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    words = [
        "run.device=cpu",
        "run.precision=fp32",
        "optim.batch_size=8",
        "optim.length=100 steps",
        *PLAIN,
        *options.options,
    ]

    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        scenes = make_scenes(Path(folder) / "scenes")
        for drop in (0.0, load_config(options.config, words).model.drop_path):
            cfg = load_config(options.config, [*words, f"data.path={scenes / 'train'}", f"model.drop_path={drop}"])
            rig = Rig(cfg, scenes)
            kinds = {
                "plain": (partial(rig.plain, True), True),
                "plain, masked patches picked": (partial(rig.plain, False), True),
                "dinolab": (rig.ours, False),
            }
            same = {name: compare(rig, name == "plain") for name in list(kinds)[:2]}
            seconds: dict[str, list[float]] = {name: [] for name in kinds}
            for _ in range(options.rounds):
                for name, (loss, slow) in kinds.items():
                    seconds[name].append(rig.step(loss, slow))
            ours = statistics.median(seconds["dinolab"])
            for name, each in seconds.items():
                middle = statistics.median(each)
                rows.append({
                    "drop_path": drop, "step": name, "seconds": middle, "each": each,
                    "images_per_s": cfg.optim.batch_size / middle, "dinolab_is_faster_by": middle / ours,
                    "difference": same.get(name),
                })  # fmt: skip

    table = Table(
        "stochastic depth", "step", "s", "images/s", "dinolab is faster by", "loss differs by", "gradient differs by"
    )
    for row in rows:
        differs = [f"{row['difference'][k]:.1e}" for k in ("loss", "gradient")] if row["difference"] else ["", ""]
        ratio = f"{row['dinolab_is_faster_by']:.2f}"
        table.add_row(
            str(row["drop_path"]), row["step"], f"{row['seconds']:.2f}", f"{row['images_per_s']:.3f}", ratio, *differs
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    command = " ".join(["python benchmarks/step.py", *sys.argv[1:]])
    options.out.write_text(
        json.dumps({"command": command, "environment": environment(), "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
