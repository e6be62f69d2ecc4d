"""The linear evaluation of DINOv2 (arXiv 2304.07193, appendix): a grid of linear heads on frozen features.

Heads for every learning rate, the last block or the last four, the class tokens alone or with the mean of the last block's
patches, are trained side by side, on the same batches: SGD with momentum 0.9, no weight decay, a cosine to zero. The best is
chosen on a tenth of the training images, held out from the heads. Unlike the published protocol, features are computed once:
there is no random-resized crop and no flip.

L learning rates, C classes.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from dinolab.data import draws
from dinolab.errors import UserError
from dinolab.evals.knn import most_likely
from dinolab.features.extract import COLUMNS, FeatureSet, refuse_infinite

RATES = (
    1e-5,
    2e-5,
    5e-5,
    1e-4,
    2e-4,
    5e-4,
    1e-3,
    2e-3,
    5e-3,
    1e-2,
    2e-2,
    5e-2,
    0.1,
)  # as published, for batches of 256
BLOCKS = 4
BATCH = 256
EPOCHS, LEAST_STEPS = 10, 2000  # whichever takes longer: ten epochs of a small set teach nothing
HELD_OUT = 0.1


class Input(NamedTuple):
    """What a head sees."""

    blocks: int
    tokens: str  # cls or both

    def rows(self, features: FeatureSet, index: Tensor) -> Tensor:
        return features.matrix(self.tokens, self.blocks, index)


def linear(
    train: FeatureSet,
    test: FeatureSet,
    classes: int,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
    rates: tuple[float, ...] = RATES,
    steps: int | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Probabilities float32 (M, classes) of the best head for the images of `test`, and what was chosen.

    Both with four blocks, or all that the encoder has, and the patches' mean. The labels of `test` are not used.
    """
    refuse_infinite(*train.blocks, train.patches, *test.blocks, test.patches)
    held_out = hold_out(train.labels, HELD_OUT, seed)
    fit, ask = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
    if not len(ask):
        raise UserError(
            "the linear evaluation needs a class with two training images or more, one of them to choose by"
        )
    inputs = [Input(blocks, tokens) for blocks in sorted({1, len(train.blocks)}) for tokens in ("cls", "both")]
    steps = steps or max(LEAST_STEPS, EPOCHS * len(fit) // BATCH)
    heads = train_heads(train, fit, inputs, classes, rates, steps, seed, device, progress)

    grid = []
    for see, group in zip(inputs, heads):
        right = torch.zeros(len(rates), dtype=torch.int64)
        for index in ask.split(1024):
            said = logits(group, see.rows(train, index).to(device)).detach().cpu()
            right += torch.stack([(most_likely(one) == train.labels[index]).sum() for one in said])
        grid += [{**see._asdict(), "rate": rate, "accuracy": n / len(ask)} for rate, n in zip(rates, right.tolist())]
    best = max(range(len(grid)), key=lambda i: grid[i]["accuracy"])
    see, head = inputs[best // len(rates)], heads[best // len(rates)][best % len(rates)]
    with torch.inference_mode():
        rows = torch.arange(len(test)).split(1024)
        probabilities = torch.cat([head(see.rows(test, index).to(device)).softmax(1).cpu() for index in rows])
    return probabilities, {"chosen": grid[best], "steps": steps, "held_out_images": len(ask), "grid": grid}


def hold_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """bool (N,), the images held out: `share` of each class and at least one, but none of a class with a single image."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen = draws.rng(seed, draws.SPLIT, label).permutation(len(members))[:count]
        held[members[torch.from_numpy(chosen)]] = True
    return held


def train_heads(
    features: FeatureSet,
    index: Tensor,
    inputs: list[Input],
    classes: int,
    rates: tuple[float, ...],
    steps: int,
    seed: int,
    device: str | torch.device,
    progress: bool,
) -> list[list[nn.Linear]]:
    """For each input L heads, trained on the images of `index`. Their gradients do not meet: the loss is a sum."""
    generator = torch.Generator().manual_seed(seed)
    widths = [see.rows(features, index[:1]).shape[1] for see in inputs]
    heads = [[new_head(width, classes, generator).to(device) for _ in rates] for width in widths]
    groups = [{"params": [*head.parameters()], "lr": rate} for group in heads for head, rate in zip(group, rates)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = index[:0]
    with Progress(*COLUMNS, console=Console(stderr=True), disable=not progress) as bar:
        for _ in bar.track(range(steps), description=f"{len(groups)} linear heads"):
            if len(order) < min(BATCH, len(index)):
                order = index[torch.randperm(len(index), generator=generator)]
            batch, order = order[:BATCH], order[BATCH:]
            target = features.labels[batch].to(device)
            loss = torch.zeros((), device=device)
            for see, group in zip(inputs, heads):
                said = logits(group, see.rows(features, batch).to(device))
                loss = loss + F.cross_entropy(said.flatten(0, 1), target.repeat(len(rates)), reduction="sum") / len(
                    batch
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return heads


def new_head(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    head = nn.Linear(width, classes)
    nn.init.normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def logits(group: list[nn.Linear], x: Tensor) -> Tensor:
    """What L heads say of the same rows (B, D): (L, B, C), by one product."""
    weight, bias = torch.cat([head.weight for head in group]), torch.cat([head.bias for head in group])
    return F.linear(x, weight, bias).unflatten(1, (len(group), -1)).transpose(0, 1)
