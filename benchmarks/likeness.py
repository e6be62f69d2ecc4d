"""Compare dinolab's crops with torchvision's: their distributions, and the size of known deviations. Used by augment.py."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms as T
from torchvision.transforms import functional as F

from dinolab.data import draws
from dinolab.data.crops import BLUR_SIGMA, HUE, Crops, draw_crops, reduction
from dinolab.data.decode import decode, read_file
from dinolab.data.types import Source
from dinolab.data.views import BLUR_KERNEL, blur, colour_jitter, make_views, resample, resize, turn_hue
from dinolab.options import Views

Pair = tuple[np.ndarray, np.ndarray]  # uint8 (H, W, 3): ours and theirs
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
BICUBIC = F.InterpolationMode.BICUBIC
STATISTICS = (
    "red",
    "green",
    "blue",
    "deviation of red",
    "deviation of green",
    "deviation of blue",
    "Laplacian",
    "gradient",
)


def torchvisions(transforms: Any, views: Views, ending: list[Any]) -> list[Callable]:
    """Return the published augmentation, a callable for each view, with either version of torchvision's transforms."""
    made = []
    for n in range(2 + views.locals):
        size, scale = (views.global_size, views.global_scale) if n < 2 else (views.local_size, views.local_scale)
        crop = transforms.RandomResizedCrop(size, scale, views.aspect, interpolation=BICUBIC, antialias=True)
        steps = [
            crop,
            transforms.RandomHorizontalFlip(views.flip),
            transforms.RandomApply([transforms.ColorJitter(*views.jitter_strength)], views.jitter),
            transforms.RandomGrayscale(views.grey),
            transforms.RandomApply([transforms.GaussianBlur(BLUR_KERNEL, BLUR_SIGMA)], views.blur[min(n, 2)]),
            *([transforms.RandomSolarize(128, views.solarize)] if n == 1 else []),
        ]
        made.append(transforms.Compose([*steps, *ending]))
    return made


def blank(views: Views) -> list[np.ndarray]:
    """Allocate memory for the views of one image, as the loader does."""
    sizes = [(2, views.global_size), (views.locals, views.local_size)]
    return [view for number, size in sizes for view in np.empty((number, 3, size, size), np.uint8)]


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Compare two samples: means, the mean of ours minus theirs with its standard error, and the Kolmogorov-Smirnov test."""
    difference = np.asarray(ours, float) - theirs
    test = ks_2samp(ours, theirs, method="asymp")
    return {
        "ours": float(np.mean(ours)), "theirs": float(np.mean(theirs)), "difference": float(difference.mean()),
        "standard_error": float(difference.std() / len(difference) ** 0.5), "ks": float(test.statistic), "p": float(test.pvalue),
    }  # fmt: skip


def compare_draws(views: Views, number: int, height: int = 375, width: int = 500) -> dict[str, Any]:
    """Compare the random draws for an image of this size with those of torchvision's transforms; also count our distortions."""
    rng = np.random.default_rng(0)
    crops = Crops(*map(np.stack, zip(*(draw_crops(height, width, views, rng) for _ in range(number)))))

    def statistics(boxes: np.ndarray) -> dict[str, np.ndarray]:
        top, left, h, w = np.asarray(boxes).T
        return {
            "area": h * w / (height * width), "aspect": w / h,
            "centre x": (left + w / 2) / width, "centre y": (top + h / 2) / height,
        }  # fmt: skip

    rows: dict[str, dict[str, float]] = {}
    image = torch.empty(3, height, width)
    for size, v, scale in (("global", 0, views.global_scale), ("local", 2, views.local_scale)):
        theirs = [T.RandomResizedCrop.get_params(image, scale, views.aspect) for _ in range(number)]
        ours = statistics(crops.boxes[:, v])
        rows |= {f"{size} {name}": compare(ours[name], x) for name, x in statistics(np.array(theirs)).items()}
    flip, two = T.RandomHorizontalFlip(views.flip), torch.tensor([[0.0, 1.0]])
    rows["flip"] = compare(crops.flip[:, 0], np.array([flip(two)[0, 0].item() for _ in range(number)]))
    jitter = T.ColorJitter(*views.jitter_strength)
    ranges = jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
    factors = np.array([jitter.get_params(*ranges)[1:] for _ in range(number)])
    for kind, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        rows[name] = compare(crops.factors[:, 0, kind], factors[:, kind])
    sigma = np.array([T.GaussianBlur.get_params(*BLUR_SIGMA) for _ in range(number)])
    rows["sigma of blur"] = compare(crops.sigma[:, 0], sigma)
    shares = {
        "jitter": (crops.jitter, views.jitter),
        "grey": (crops.grey, views.grey),
        "blur, first global": (crops.sigma[:, 0] > 0, views.blur[0]),
        "blur, second global": (crops.sigma[:, 1] > 0, views.blur[1]),
        "blur, local": (crops.sigma[:, 2:] > 0, views.blur[2]),
        "solarise, second global": (crops.solarize[:, 1], views.solarize),
        "solarise, others": (np.delete(crops.solarize, 1, axis=1), 0.0),
    }
    return {"rows": rows, "shares": {name: {"observed": float(x.mean()), "set": p} for name, (x, p) in shares.items()}}


def statistics_of(view: np.ndarray) -> np.ndarray:
    """Compute STATISTICS of an image, uint8 (H, W, 3), in levels of 255; that of the Laplacian is its variance."""
    view = np.ascontiguousarray(view)
    grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gradient = (np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
    mean, deviation = cv2.meanStdDev(view)
    return np.array([*mean[:, 0], *deviation[:, 0], cv2.Laplacian(grey, cv2.CV_32F).var(), gradient])


def compare_crops(source: Source, views: Views, number: int) -> dict[str, Any]:
    """Compare finished crops, a global and a local one for each draw, with those of the published pipeline.

    That pipeline has random draws of its own. For every fourth draw, our crops are also compared with those of the published operations
    with our draws: these differ only in pixels, by the deviations below.
    """
    published = torchvisions(T, views, [])
    found = defaultdict(list)
    for place, path in enumerate(source.paths[:number]):
        data = read_file(path)
        decoded = lru_cache(lambda factor, data=data, path=path: decode(data, path, factor))
        image = Image.fromarray(decoded(1))
        for n in range(place, number, len(source)):
            crops = draw_crops(image.height, image.width, views, draws.rng(0, draws.SAMPLE, n))
            chosen = [n // len(source) % 2, 2]  # the first or the second global one, and the first local one
            two = Crops(crops.size, *(field[chosen] for field in crops[1:]))
            out = [blank(views)[v] for v in chosen]
            make_views(decoded(reduction(crops, views)), two, out)
            for kind, v, view in zip(("global", "local"), chosen, out):
                ours = statistics_of(view.transpose(1, 2, 0))
                found[kind, "own draws"].append((ours, statistics_of(np.array(published[v](image)))))
                if n // len(source) % 8 < 2:
                    same = published_view(image, crops, v, view.shape[1])
                    found[kind, "same draws"].append((ours, statistics_of(same)))
    return {
        f"{kind}, {of}": {name: compare(*np.array(pairs)[:, :, k].T) for k, name in enumerate(STATISTICS)}
        for (kind, of), pairs in found.items()
    }


def published_view(image: Image.Image, crops: Crops, v: int, size: int) -> np.ndarray:
    """Make view v with torchvision on Pillow images, uint8 (size, size, 3)."""
    view = F.resized_crop(image, *crops.boxes[v].tolist(), [size, size], BICUBIC)
    view = F.hflip(view) if crops.flip[v] else view
    for kind in crops.order[v] if crops.jitter[v] else ():
        view = ADJUST[kind](view, crops.factors[v, kind])
    view = F.rgb_to_grayscale(view, 3) if crops.grey[v] else view
    view = F.gaussian_blur(view, [BLUR_KERNEL] * 2, [crops.sigma[v]] * 2) if crops.sigma[v] else view
    return np.array(F.solarize(view, 128) if crops.solarize[v] else view)


def deviations(source: Source, views: Views) -> dict[str, dict[str, float]]:
    """Compare single operations with the same parameters, on the photos as they are: differences in levels, ratio of sharpness."""
    plain = replace(views, flip=0.0, jitter=0.0, grey=0.0, blur=[0.0] * 3, solarize=0.0)
    found: dict[str, list[Pair]] = defaultdict(list)
    for n, path in enumerate(source.paths[:40]):
        data, rng = read_file(path), draws.rng(0, draws.SAMPLE, n)
        photo = decode(data, path)
        part = np.ascontiguousarray(photo[:512, :512])
        jitter, boxes = (draw_crops(*photo.shape[:2], cfg, rng) for cfg in (views, plain))
        for pairs in (colours(part, jitter), resampling(part), reduced_decoding(data, photo, boxes)):
            for name, ours, theirs in pairs:
                found[name].append((ours, theirs))
    return {name: gap(pairs) for name, pairs in found.items()}


def colours(photo: np.ndarray, crops: Crops) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    image = Image.fromarray(photo)
    for turn in (-0.1, 0.03, 0.1):
        yield "hue in 256 levels", turn_hue(photo, round(turn * 256) % 256), np.array(F.adjust_hue(image, turn))
    for sigma in (0.3, 1.0, 2.0):
        theirs = F.gaussian_blur(image, [BLUR_KERNEL] * 2, [sigma] * 2)
        yield f"blur, sigma {sigma}", blur(photo, sigma), np.array(theirs)
    for factors, order in zip(crops.factors[2:6], crops.order[2:6]):
        for name, hue in (("no hue", 0.0), ("with hue", factors[HUE])):
            amounts, view = [*factors[:HUE], hue], image
            for kind in order:
                view = ADJUST[kind](view, amounts[kind])
            yield f"colour steps fused, {name}", colour_jitter(photo, amounts, order), np.array(view)


def resampling(photo: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    side = min(photo.shape[:2])
    square = np.ascontiguousarray(photo[:side, :side])
    for factor in FACTORS:
        to = max(1, round(side / factor))
        pillows = np.array(Image.fromarray(square).resize((to, to), Image.Resampling.BICUBIC))
        yield f"resample, shrunk {factor:g}", resample(square, to, to), pillows
        yield f"area filter, shrunk {factor:g}", resize(square, to, to), pillows


def reduced_decoding(data: bytes, photo: np.ndarray, crops: Crops) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Compare views of an image decoded at reduced size with views of the whole image, at the largest size that allows it."""
    for factor in (2, 4, 8):
        reduced = decode(data, "", factor)
        on_grid = crops._replace(
            boxes=crops.boxes // factor * factor
        )  # of the reduced pixels, so that no box is rounded
        for name, boxed in (("", crops), (", boxes on its grid", on_grid)):
            sizes = np.maximum(4, boxed.boxes[:, 2:].min(axis=1) // factor)
            for ours, theirs in zip(views_of(reduced, boxed, sizes), views_of(photo, boxed, sizes)):
                yield f"decoded at 1/{factor}{name}", ours, theirs


def views_of(image: np.ndarray, crops: Crops, sizes: np.ndarray) -> list[np.ndarray]:
    out = [np.empty((3, size, size), np.uint8) for size in sizes]
    make_views(image, crops, out)
    return [view.transpose(1, 2, 0) for view in out]


def gap(pairs: list[Pair]) -> dict[str, float]:
    """Compute mean and 99th percentile of the absolute difference, the mean difference, and the ratio of mean gradients."""
    difference = np.concatenate([(a.astype(np.int16) - b).ravel() for a, b in pairs])
    ours, theirs = (sum(statistics_of(pair[k])[-1] for pair in pairs) for k in (0, 1))
    size = np.abs(difference)
    return {
        "mean": float(size.mean()),
        "p99": float(np.percentile(size, 99)),
        "offset": float(difference.mean()),
        "sharpness": float(ours / theirs),
    }
