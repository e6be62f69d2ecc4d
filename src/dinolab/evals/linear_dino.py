"""DINO's linear evaluation (arXiv 2104.14294, section 4.1 and appendix): a linear layer on frozen features of augmented images.

SGD with momentum 0.9, no weight decay, a cosine to zero; random-resized crops and flips; 100 epochs. The layer sees the class
tokens of the last four blocks of a ViT-S, and the class token and the mean of the patches of the last block of larger ones.
The published learning rate is 0.001 for batches of 256; its code advises to adapt it to the checkpoint. So layers with several
rates are trained side by side, on the same batches, and the best is chosen on a tenth of the training images, held out from them
all. With a single learning rate there is nothing to choose, and no image is held out.

L layers, C classes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinolab.data.crops import draw_boxes
from dinolab.data.types import Source
from dinolab.data.views import resample
from dinolab.errors import UserError
from dinolab.evals.augmented import Augmented, Training, batches
from dinolab.evals.classification import Classification, Classified
from dinolab.evals.contract import Context
from dinolab.evals.heads import HELD_OUT, Heads, Input, Trained, hold_out, train_heads
from dinolab.evals.labelled_images import LabelledImages, Sides
from dinolab.evals.scores import most_likely
from dinolab.features.extract import FeatureSet
from dinolab.fields import option
from dinolab.progress import track

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)
SMALL = 384  # the width of a ViT-S
BLOCKS = 4
SCALE, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of torchvision's RandomResizedCrop
BASE_BATCH = 256


class LinearDINO(Classification):
    title = "linear, augmented"
    about = (
        "DINO's linear protocol: SGD on random crops and flips, the learning rate chosen on held-out training images."
    )
    earlier = "a linear layer by SGD on augmented images, as DINO"

    @dataclass
    class Options(LabelledImages.Options):
        epochs: int = option(100, "passes over the training images", 1, 1 << 20)
        batch_size: int = option(128, "images in a batch", 1, 1 << 20)
        lr: list[float] = option(
            [], "learning rates for batches of 256, to choose among (empty: eight from 0.0001 to 0.3)", 1e-12, 1e6
        )

    def classify(
        self, encoder: Any, data: LabelledImages, options: "LinearDINO.Options", context: Context, seed: int
    ) -> tuple[Sides, Classified]:
        taken = choose_input(encoder)
        sides = data.sides(encoder, seed, taken.blocks, taken.tokens != "cls")
        training = Training(options.epochs, options.batch_size, tuple(options.lr or RATES))
        layer, chosen = linear_dino(
            encoder, sides.train, sides.train_features, context.size, training, seed,
            context.device, context.workers, context.precision, context.progress,
        )  # fmt: skip
        return sides, Classified(layer.probabilities(sides.test_features), chosen, layer=layer)


def choose_input(encoder: Any) -> Input:
    """The features that the layer takes; a network without a class token has its pooled last layer alone."""
    if not getattr(encoder, "has_class_token", True):
        return Input(1, "cls")
    return Input(BLOCKS, "cls") if encoder.dim <= SMALL else Input(1, "both")


def linear_dino(
    encoder: Any,
    source: Source,
    train: FeatureSet,
    size: tuple[int, int],
    training: Training,
    seed: int = 0,
    device: str | torch.device = "cpu",
    workers: int = 0,
    precision: str = "fp32",
    progress: bool = True,
) -> tuple[Trained, dict[str, Any]]:
    """Train the layers, and choose the best. The encoder does not change.

    Args:
        source: the training images, which are augmented.
        train: features of the unaugmented training images, those that `choose_input` names.
        size: height and width of the views, in pixels.

    Returns:
        The best layer, and what was chosen, with the accuracy of each rate as `grid`.

    Raises:
        UserError: there are several rates and no class has two training images.
    """
    rates = training.rates
    held_out = hold_out(train.labels, HELD_OUT, seed)
    held_out &= len(rates) > 1
    fit, validation = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
    if len(rates) > 1 and not len(validation):
        raise UserError(
            "choosing a learning rate needs a class with two training images or more; give a single rate, such as lr=0.001"
        )
    paths = [source.paths[i] for i in train.kept[fit]]
    images = Augmented(paths, train.labels[fit], partial(random_crop, size=size), seed)
    training = training._replace(batch_size=min(training.batch_size, len(fit)))
    steps = training.steps(len(fit), training.batch_size)

    taken = choose_input(encoder)
    taken = taken._replace(blocks=min(taken.blocks, len(train.blocks)))
    width, generator = taken.rows(train, fit[:1]).shape[1], torch.Generator().manual_seed(seed)
    scaled = [rate * training.batch_size / BASE_BATCH for rate in rates]
    heads = Heads(width, len(source.classes), scaled, generator).to(device)
    loaded = batches(images, steps, training.batch_size, device, workers)
    inputs = (
        [(taken.encode(encoder, views, precision), labels)]
        for views, labels in track(loaded, f"linear layers, {training.epochs} epochs", steps, progress)
    )
    train_heads([heads], inputs, steps)
    layers = [Trained(heads.layer(number), taken) for number in range(len(rates))]

    grid = []
    if len(rates) > 1:
        found = torch.stack([most_likely(layer.probabilities(train, validation)) for layer in layers])
        accuracies = (found == train.labels[validation]).float().mean(1).tolist()
        grid = [{"rate": rate, "accuracy": accuracy} for rate, accuracy in zip(rates, accuracies)]
    best = max(range(len(rates)), key=lambda i: grid[i]["accuracy"]) if grid else 0
    chosen = {"chosen": {**taken._asdict(), "rate": rates[best]}, "epochs": training.epochs, "steps": steps}
    chosen |= {"batch_size": training.batch_size, "held_out_images": len(validation), "grid": grid}
    return layers[best], chosen


def random_crop(image: np.ndarray, rng: np.random.Generator, size: tuple[int, int]) -> Tensor:
    """A random-resized crop of (H, W, 3), flipped with probability one half: uint8 (3, height, width)."""
    height, width = image.shape[:2]
    top, left, h, w = draw_boxes(height, width, np.array([SCALE]), ASPECT, rng)[0]
    crop = resample(image[top : top + h, left : left + w], *size)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))
