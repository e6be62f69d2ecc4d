"""The linear evaluation of DINOv2 (arXiv 2304.07193, appendix): a grid of linear heads on frozen features.

Heads for every learning rate, the last block or the last four, the class tokens alone or with the mean of the last block's
patches, are trained side by side, on the same batches: SGD with momentum 0.9, no weight decay, a cosine to zero. The best is
chosen on a tenth of the training images, held out from the heads. Unlike the published protocol, features are computed once:
there is no random-resized crop and no flip.

N training images, L learning rates, C classes.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.evals.classification import ACCURACY, FURTHER, Classification, Classified
from dinolab.evals.contract import Context
from dinolab.evals.heads import HELD_OUT, Input, Trained, hold_out, logits, new_head
from dinolab.evals.labelled_images import LabelledImages, Sides
from dinolab.evals.scores import most_likely
from dinolab.features.extract import FeatureSet
from dinolab.progress import track

# as published, for batches of 256
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
BLOCKS = 4
BATCH = 256
EPOCHS, LEAST_STEPS = 10, 2000  # whichever takes longer: ten epochs of a small set are too few steps


class LinearHeads(Classification):
    title = "linear"
    about = "Linear layers on frozen features over the grid of DINOv2; the best is chosen on held-out training images."
    earlier = "linear heads, DINOv2's grid, on features without augmentation"
    FIGURES = (replace(ACCURACY, published="imagenet.linear_top1 small_scale.linear_top1"), *FURTHER)
    compared = True
    runs_first = True

    @dataclass
    class Options(LabelledImages.Options):
        pass

    def classify(
        self, encoder: Any, data: LabelledImages, options: "LinearHeads.Options", context: Context, seed: int
    ) -> tuple[Sides, Classified]:
        # a network without a class token has its last layer alone
        blocks = BLOCKS if getattr(encoder, "has_class_token", True) else 1
        sides = data.sides(encoder, seed, blocks, patches=True)
        classes = len(sides.train.classes)
        layer, chosen = linear(sides.train_features, classes, seed, context.device, context.progress)
        return sides, Classified(layer.probabilities(sides.test_features), chosen, layer=layer)


def linear(
    train: FeatureSet,
    classes: int,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
    rates: tuple[float, ...] = RATES,
    steps: int | None = None,
) -> tuple[Trained, dict[str, Any]]:
    """Train the heads and choose the best.

    Args:
        train: features of four blocks, or all that the encoder has, and the patches' mean.
        classes: number of classes.
        steps: by default ten epochs, or 2,000 steps if that is longer.

    Returns:
        The best layer, and what was chosen: the head, steps, held_out_images, and the grid.

    Raises:
        UserError: no class has two training images.
    """
    held_out = hold_out(train.labels, HELD_OUT, seed)
    fit, validation = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
    if not len(validation):
        raise UserError(
            "the linear evaluation needs a class with two training images or more, one of them to choose by"
        )
    inputs = [Input(blocks, tokens) for blocks in sorted({1, len(train.blocks)}) for tokens in ("cls", "both")]
    steps = steps or max(LEAST_STEPS, EPOCHS * len(fit) // BATCH)
    heads = train_heads(train, fit, inputs, classes, rates, steps, seed, device, progress)

    grid = []
    for taken, group in zip(inputs, heads):
        right = torch.zeros(len(rates), dtype=torch.int64)
        for index in validation.split(1024):
            outputs = logits(group, taken.rows(train, index).to(device)).detach().cpu()
            right += torch.stack([(most_likely(one) == train.labels[index]).sum() for one in outputs])
        grid += [
            {**taken._asdict(), "rate": rate, "accuracy": n / len(validation)} for rate, n in zip(rates, right.tolist())
        ]
    best = max(range(len(grid)), key=lambda i: grid[i]["accuracy"])
    taken, head = inputs[best // len(rates)], heads[best // len(rates)][best % len(rates)]
    facts = {"chosen": grid[best], "steps": steps, "held_out_images": len(validation), "grid": grid}
    return Trained(head, taken), facts


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
    """For each input L heads, trained on the images of `index`.

    The loss is the sum of all heads' losses, so that no head's gradient depends on another head.
    """
    generator = torch.Generator().manual_seed(seed)
    widths = [taken.rows(features, index[:1]).shape[1] for taken in inputs]
    heads = [[new_head(width, classes, generator).to(device) for _ in rates] for width in widths]
    groups = [{"params": [*head.parameters()], "lr": rate} for group in heads for head, rate in zip(group, rates)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = index[:0]
    for _ in track(range(steps), f"{len(groups)} linear heads", steps, progress):
        if len(order) < min(BATCH, len(index)):
            order = index[torch.randperm(len(index), generator=generator)]
        batch, order = order[:BATCH], order[BATCH:]
        target = features.labels[batch].to(device)
        loss = torch.zeros((), device=device)
        for taken, group in zip(inputs, heads):
            outputs = logits(group, taken.rows(features, batch).to(device))
            loss = loss + F.cross_entropy(outputs.flatten(0, 1), target.repeat(len(rates)), reduction="sum") / len(
                batch
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return heads
