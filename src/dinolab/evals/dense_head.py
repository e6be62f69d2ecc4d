"""The training of a head on frozen patches, by AdamW, in batches of whole images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dinolab.data import draws
from dinolab.evals.dense import Sample, TrainingSamples
from dinolab.evals.state import KeptState
from dinolab.precision import quick_products
from dinolab.progress import track

CLIP = 35.0  # norm of the gradient, as in the published configurations for depth


@dataclass(frozen=True)
class Schedule:
    """How long a head is trained, and how fast."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float  # share of the steps in which the learning rate rises in a line
    decay: Callable[
        [float], float
    ]  # factor of the learning rate by the share of the steps that are done, after the warm-up

    def factor(self, step: int) -> float:
        """Factor of the learning rate in a step."""
        share, warm = step / self.steps, self.warmup * self.steps
        rising = (step + 1) / warm if warm >= 1 else 1.0
        return min(1.0, rising) * self.decay(share)


@quick_products()  # for the backward pass too
def train_head(
    head: nn.Module,
    samples: TrainingSamples,
    loss: Callable[[list[Sample], int, np.random.Generator], Tensor],
    schedule: Schedule,
    seed: int,
    state: Path | None,
    of: str,
    progress: bool,
) -> None:
    """Train a head in place. A training that was stopped continues from its state.

    Args:
        loss: of some samples in a step; it may draw random numbers.
        state: file for the training's state; None keeps none.
        of: text that names everything that the training depends on.
    """
    optimizer = torch.optim.AdamW(head.parameters(), schedule.lr, weight_decay=schedule.weight_decay)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    kept = KeptState(
        state, f"{of} {vars(schedule) | {'decay': ''}}", {"head": head, "optimizer": optimizer, "rate": rate}
    )
    done = kept.restore()
    head.train()
    for step in track(range(done, schedule.steps), "training of the head", schedule.steps, progress, done):
        draw = draws.rng(seed, draws.STEP, step)
        size = min(schedule.batch_size, len(samples))
        batch = [samples[int(number)] for number in draw.choice(len(samples), size, replace=False)]
        optimizer.zero_grad()
        loss(batch, step, draw).backward()
        nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        optimizer.step()
        rate.step()
        kept.save_now_and_then(step + 1)
    head.eval()


def describe(schedule: Schedule) -> dict[str, Any]:
    """The facts of a schedule that a result keeps."""
    return {"steps": schedule.steps, "batch_size": schedule.batch_size, "lr": schedule.lr}
