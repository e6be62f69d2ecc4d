"""Depth by a linear layer on frozen patches, as DINOv2 (arXiv 2304.07193, section 7.4).

N test images.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinolab.config import parse_size
from dinolab.errors import UserError
from dinolab.evals.contract import Context, Evaluation, Figure, Finds
from dinolab.evals.dense import DenseEncoder, Sample, TrainingSamples, check_blocks, test_samples, to_pixels
from dinolab.evals.dense_head import Schedule, describe, train_head
from dinolab.evals.dense_metrics import depth_errors, mean_errors
from dinolab.evals.dense_pictures import Pictures, draw_depths
from dinolab.evals.depth_losses import BinHead, gradient_loss, sig_loss
from dinolab.evals.depth_maps import LAYOUTS, DepthMaps
from dinolab.evals.pairs import Size, load_all
from dinolab.evals.result import Measured, Result
from dinolab.evals.roots import find_each
from dinolab.evals.state import state_file
from dinolab.fields import option

WARM_STEPS = 100  # in which the loss has no variance, as published
GRADIENT_WEIGHT = 0.5
WHERE = {
    ("nyu", "nyu_depth_v2", "nyud"): "NYU Depth v2: nyu with its lists of files; from https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    ("kitti",): "KITTI: kitti with its lists of files; from https://www.cvlibs.net/datasets/kitti",
    ("7scenes",): "7-Scenes: 7scenes, one scene with its sequences; from https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes",
}  # fmt: skip


class Depth(Evaluation):
    title = "depth"
    about = "Depth in metres for every pixel, by a linear layer on frozen patches that predicts 256 bins."
    needs = DepthMaps
    suites = ("dinov2",)
    FIGURES = (
        Figure("rmse", "RMSE", unit="m", higher_is_better=False),
        Figure("abs_rel", "relative error", higher_is_better=False),
        Figure("delta1", "off by less than 1.25"),
        Figure("delta2", "off by less than 1.25^2"),
        Figure("delta3", "off by less than 1.25^3"),
    )

    @dataclass
    class Options(DepthMaps.Options):
        blocks: int = option(1, "blocks whose tokens are joined: 1, the last, or 4, evenly spaced", 1, 4)
        flips: bool = option(True, "train and test on mirror images too")
        steps: int = option(600, "steps of the head's training (published: 38400)", 1, 1 << 30)
        batch_size: int = option(4, "images in a step (published: 16)", 1, 1 << 16)
        lr: float = option(5e-3, "learning rate of AdamW", 1e-12, 1e3)

    def check(self, encoder: Any, options: Any) -> None:
        if options.blocks not in (1, 4):
            raise UserError(f"blocks={options.blocks}: takes 1 or 4")
        check_blocks(encoder, options.blocks)

    def find(self, root: Path) -> Finds:
        return find_each(root, WHERE, lambda folder: any(look(folder) for look in LAYOUTS))

    def run(self, encoder: Any, data: DepthMaps, options: "Depth.Options", context: Context) -> Result:
        size = parse_size(options.size, "size")
        mean = mean_depth(data, context)
        dense = DenseEncoder.of(encoder, options.blocks, spread=True, context=context)
        samples = TrainingSamples(data.train, dense, size, options.flips)
        head, chosen = self.trained(samples, data, options, context)
        pictures = Pictures(context.out, len(data.test))
        errors, floor = [], []
        for image, truth, predicted in predictions(head, data, dense, size, options.flips):
            counted = torch.from_numpy(data.counted(truth.numpy()))
            errors.append(depth_errors(predicted, counted, data.near, data.far))
            floor.append(depth_errors(torch.full_like(counted, mean), counted, data.near, data.far))
            if place := pictures.next():
                draw_depths(image, truth, predicted, data.far, place)
        if not any(math.isfinite(one["rmse"]) for one in errors):
            raise UserError(
                f"{data.test.source.name}: no test map has a depth between {data.near} and {data.far} m; look at scale="
            )
        found = mean_errors(errors, options.seed)
        settings = {
            "size": options.size or "as they are", "blocks": options.blocks, "flips": options.flips,
            "near": data.near, "far": data.far, "crop": data.crop, **chosen,
        }  # fmt: skip
        other = {f"every pixel {mean:.2f} m, the training mean": mean_errors(floor, options.seed)["rmse"][0]}
        figures = {key: Measured(value, interval) for key, (value, interval) in found.items()}
        return context.result(settings, data=data.facts(), figures=figures, other=other)

    def trained(
        self, samples: TrainingSamples, data: DepthMaps, options: "Depth.Options", context: Context
    ) -> tuple[BinHead, dict[str, Any]]:
        """The head, and the settings of its training: AdamW, a third of the steps warm-up, then a cosine, as published."""
        decay = lambda share: 0.5 + 0.5 * math.cos(math.pi * share)  # noqa: E731
        schedule = Schedule(options.steps, options.batch_size, options.lr, 0.01, 1 / 3, decay)
        width = samples[0].tokens.joined().shape[2]
        generator = torch.Generator().manual_seed(options.seed)
        head = BinHead(width, data.near, data.far, generator).to(context.device)

        def loss(batch: list[Sample], step: int, draw: np.random.Generator) -> Tensor:
            depths = [on_pixels(head, sample, context.device) for sample in batch]
            truth = [sample.truth.to(context.device) for sample in batch]
            return sig_loss(depths, truth, data.far, step < WARM_STEPS) + GRADIENT_WEIGHT * gradient_loss(
                depths, truth, data.far
            )

        of = f"{vars(options)} {samples.pairs.source.checksum()} {context.encoder}"
        train_head(
            head, samples, loss, schedule, options.seed, state_file(context.out, options.seed), of, context.progress
        )
        return head, describe(schedule)


def on_pixels(head: BinHead, sample: Sample, device: torch.device) -> Tensor:
    """Depths (H, W) that the head predicts for an image."""
    return to_pixels(head(sample.tokens.joined().to(device))[None], sample.view)[0]


def mean_depth(data: DepthMaps, context: Context) -> float:
    """The mean of all training depths that count, in metres. Raises UserError where there are none."""
    total, count = 0.0, 0
    for _, truth in load_all(data.train, None, context, f"maps of {data.train.source.name}", images=False):
        valid = truth[(truth > data.near) & (truth < data.far)]
        total, count = total + float(valid.double().sum()), count + valid.numel()
    if not count:
        raise UserError(
            f"{data.train.source.name}: no training map has a depth between {data.near} and {data.far} m; look at scale="
        )
    return total / count


def predictions(
    head: BinHead, data: DepthMaps, encoder: DenseEncoder, size: Size | None, flips: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each test image, its true depths (H, W), and the predicted ones, which are clamped to the range before they are resized."""
    device = encoder.context.device
    for image, truth, seen in test_samples(data.test, encoder, size, [1.0], flips):
        with torch.inference_mode():
            found = [
                to_pixels(head(tokens.joined().to(device)).clamp(data.near, data.far)[None], view)[0]
                for tokens, view in seen
            ]
            yield image, truth, torch.stack(found).mean(0).cpu()
