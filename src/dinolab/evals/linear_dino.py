"""DINO's linear evaluation (arXiv 2104.14294, section 4.1 and appendix): a linear layer on frozen features of augmented images.

SGD with momentum 0.9, no weight decay, a cosine to zero; random-resized crops and flips; 100 epochs. The layer sees the class
tokens of the last four blocks of a ViT-S, and the class token and the mean of the patches of the last block of larger ones.
The published learning rate, 0.001 for batches of 256, is to be adapted to the checkpoint, as its code says: layers for several
are trained side by side, on the same batches, and the best is chosen on a tenth of the training images, held out from them all.
With a single learning rate there is nothing to choose, and no image is held out.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from dinolab.data.crops import draw_boxes
from dinolab.data.types import Source
from dinolab.data.views import resample
from dinolab.errors import UserError
from dinolab.evals.augmented import Augmented, Training, batches
from dinolab.evals.knn import most_likely
from dinolab.evals.linear import HELD_OUT, Input, hold_out, logits, new_head
from dinolab.features.extract import COLUMNS, FeatureSet, refuse_infinite
from dinolab.models.encoder import evaluating

DEFAULTS = Training(100, 128, (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3))
SMALL = 384  # the width of a ViT-S
BLOCKS = 4
SCALE, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of torchvision's RandomResizedCrop
BASE_BATCH = 256


def choose_input(encoder: Any) -> Input:
    """What the layer sees; a network without a class token has its pooled last layer alone."""
    if not getattr(encoder, "has_class_token", True):
        return Input(1, "cls")
    return Input(BLOCKS, "cls") if encoder.dim <= SMALL else Input(1, "both")


def linear_dino(
    encoder: Any,
    source: Source,
    train: FeatureSet,
    test: FeatureSet,
    size: tuple[int, int],
    training: Training = DEFAULTS,
    seed: int = 0,
    device: str | torch.device = "cpu",
    workers: int = 0,
    precision: str = "fp32",
    progress: bool = True,
) -> tuple[Tensor, dict[str, Any]]:
    """Probabilities float32 (M, classes) for the images of `test`, by the best layer, and what was chosen.

    `train` and `test` are features of unaugmented images, with what `choose_input` names; `train` is of `source`, whose images
    are augmented. The encoder stays as it is. The labels of `test` are not used.
    """
    refuse_infinite(*train.blocks, train.patches, *test.blocks, test.patches)
    rates = training.rates
    held_out = hold_out(train.labels, HELD_OUT, seed)
    if len(rates) == 1:
        held_out[:] = False
    fit, ask = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
    if len(rates) > 1 and not len(ask):
        raise UserError(
            "to choose a learning rate takes a class with two training images or more; give one learning rate (--lr)"
        )
    paths = [source.paths[i] for i in train.kept[fit]]
    images = Augmented(paths, train.labels[fit], partial(random_crop, size=size), seed)
    batch_size = min(training.batch_size, len(fit))
    steps = training.steps(len(fit), batch_size)

    generator = torch.Generator().manual_seed(seed)
    see = choose_input(encoder)
    see = see._replace(blocks=min(see.blocks, len(train.blocks)))
    width = see.rows(train, fit[:1]).shape[1]
    heads = [new_head(width, len(source.classes), generator).to(device) for _ in rates]
    scaled = [rate * batch_size / BASE_BATCH for rate in rates]
    optimizer = torch.optim.SGD(
        [{"params": [*head.parameters()], "lr": rate} for head, rate in zip(heads, scaled)], momentum=0.9
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with Progress(*COLUMNS, console=Console(stderr=True), disable=not progress) as bar:
        loaded = batches(images, steps, batch_size, device, workers)
        for views, labels in bar.track(loaded, total=steps, description=f"linear, {training.epochs} epochs"):
            said = logits(heads, encode(encoder, views, see, precision))
            # a sum, so that the gradients do not meet; over the layers' mean losses
            loss = F.cross_entropy(said.flatten(0, 1), labels.repeat(len(rates)), reduction="sum") / batch_size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    tried = []
    if len(rates) > 1:
        answers = torch.stack([predict(head, see, train, ask, device) for head in heads])
        accuracy = (torch.stack([most_likely(answer) for answer in answers]) == train.labels[ask]).float().mean(1)
        tried = [{"rate": rate, "accuracy": share} for rate, share in zip(rates, accuracy.tolist())]
    best = max(range(len(rates)), key=lambda i: tried[i]["accuracy"]) if tried else 0
    facts = {"epochs": training.epochs, "steps": steps, "batch_size": batch_size, "held_out_images": len(ask)}
    return (
        predict(heads[best], see, test, torch.arange(len(test)), device),
        {"chosen": {**see._asdict(), "rate": rates[best]}, **facts, "grid": tried},
    )


def random_crop(image: np.ndarray, rng: np.random.Generator, size: tuple[int, int]) -> Tensor:
    """A random-resized crop of (H, W, 3), flipped half of the times: uint8 (3, height, width)."""
    height, width = image.shape[:2]
    top, left, h, w = draw_boxes(height, width, np.array([SCALE]), ASPECT, rng)[0]
    crop = resample(image[top : top + h, left : left + w], *size)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))


def encode(encoder: Any, views: Tensor, see: Input, precision: str) -> Tensor:
    """What the layers see of a batch, float32 (B, ·)."""
    with (
        evaluating(encoder),
        torch.autocast(views.device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        outs = [encoder(views)] if see.blocks == 1 else encoder.layers(views, see.blocks)
        parts = [out.cls.float() for out in outs]
        if see.tokens == "both":
            parts.append(outs[-1].patches.float().mean((1, 2)))
    return torch.cat(parts, 1)  # outside, so that gradients may be taken


def predict(head: nn.Linear, see: Input, features: FeatureSet, index: Tensor, device: str | torch.device) -> Tensor:
    """Probabilities float32 (len(index), classes), on the CPU."""
    with torch.inference_mode():
        parts = [head(see.rows(features, rows).to(device)).softmax(1).cpu() for rows in index.split(1024)]
    return torch.cat(parts)
