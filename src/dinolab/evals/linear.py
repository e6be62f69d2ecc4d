"""The linear evaluation of DINOv2 (arXiv 2304.07193, appendix): a grid of linear heads on frozen features.

Heads for every learning rate, the last block or the last four, the class tokens alone or with the mean of the last block's
patches, are trained side by side, on the same batches: SGD with momentum 0.9, no weight decay, a cosine to zero. The best is
chosen on a tenth of the training images, held out from the heads. Unlike the published protocol, features are computed once:
there is no random-resized crop and no flip.

N training images, L learning rates, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dinolab.errors import UserError
from dinolab.evals.classification import ACCURACY, FURTHER, Classification, Classified
from dinolab.evals.contract import SUITES, Context
from dinolab.evals.heads import HELD_OUT, Heads, Input, Trained, hold_out, train_heads
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
    suites = SUITES
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
    generator = torch.Generator().manual_seed(seed)
    heads = [Heads(taken.rows(train, fit[:1]).shape[1], classes, rates, generator).to(device) for taken in inputs]
    batches = shuffled(train, fit, inputs, steps, generator, torch.device(device))
    train_heads(heads, track(batches, f"{len(inputs) * len(rates)} linear heads", steps, progress), steps)

    grid = []
    for taken, each in zip(inputs, heads):
        right = torch.zeros(len(rates), dtype=torch.int64)
        for index in validation.split(1024):
            outputs = each(taken.rows(train, index).to(device)).detach().cpu()
            right += torch.stack([(most_likely(one) == train.labels[index]).sum() for one in outputs])
        grid += [
            {**taken._asdict(), "rate": rate, "accuracy": n / len(validation)} for rate, n in zip(rates, right.tolist())
        ]
    best = max(range(len(grid)), key=lambda i: grid[i]["accuracy"])
    which, number = divmod(best, len(rates))
    facts = {"chosen": grid[best], "steps": steps, "held_out_images": len(validation), "grid": grid}
    return Trained(heads[which].layer(number), inputs[which]), facts


def shuffled(
    features: FeatureSet,
    index: Tensor,
    inputs: list[Input],
    steps: int,
    generator: torch.Generator,
    device: torch.device,
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Batches of the images of `index` in random order, without end of an epoch: for each input its features, and the labels."""
    order = index[:0]
    for _ in range(steps):
        if len(order) < min(BATCH, len(index)):
            order = index[torch.randperm(len(index), generator=generator)]
        batch, order = order[:BATCH], order[BATCH:]
        labels = features.labels[batch].to(device)
        yield [(taken.rows(features, batch).to(device), labels) for taken in inputs]
