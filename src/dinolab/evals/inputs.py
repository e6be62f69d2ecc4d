"""What an evaluation is given, opened: an encoder, labelled images to learn from, and images to be asked of."""

from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from dinolab.data.sources import open_source, take
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.splits import held_out
from dinolab.features.extract import FeatureSet
from dinolab.features.pixels import PixelEncoder
from dinolab.parallel import choose_device
from dinolab.weights.load import load


class Sides(NamedTuple):
    """Images to learn from and images to be asked of, with features of those that can be read."""

    learn: Source
    learned: FeatureSet
    ask: Source
    asked: FeatureSet
    split: str  # where the test images come from


def refuse_unknown(what: str, given: str, known: Any) -> None:
    if given not in known:
        raise UserError(f"{what} {given!r} is not one of {', '.join(known)}")


def refuse_below(least: int, **given: Any) -> None:
    """UserError for settings that are not whole numbers of so much or more, or pairs of them; None is the default."""
    for name, value in given.items():
        numbers = value if isinstance(value, tuple) and len(value) == 2 else (value,)
        if value is not None and not all(isinstance(n, Integral) and int(n) >= least for n in numbers):
            raise UserError(f"{name}={value}: takes whole numbers of {least} or more")


def open_encoder(
    encoder: str | Path | nn.Module, size: int | tuple[int, int] | None
) -> tuple[str, Any, tuple[int, int]]:
    """Name, encoder, and height and width that it is to see, from a module, "pixels", or what `load` takes."""
    name = type(encoder).__name__ if isinstance(encoder, nn.Module) else str(encoder)
    opened: Any = encoder
    if not isinstance(encoder, nn.Module):
        opened = PixelEncoder() if encoder == "pixels" else load(encoder)
    size = size or int(getattr(opened, "image_size", 224))
    return name, opened, (size, size) if isinstance(size, int) else size


def open_device(device: str | torch.device | None, encoder: str | Path | nn.Module) -> torch.device:
    """The device that is asked for; by default where the encoder is, and the CPU for one that is yet to be loaded."""
    if isinstance(device, str):
        return choose_device(device, "device=")
    tensors = chain(encoder.parameters(), encoder.buffers()) if isinstance(encoder, nn.Module) else iter(())
    return device or next((tensor.device for tensor in tensors), torch.device("cpu"))


def open_images(train: str | Path | Source, test: str | Path | Source | None) -> list[Source]:
    """Images to learn from, labelled, and images to be asked of, which may have no labels; or the former alone."""
    learn = train if isinstance(train, Source) else open_source(str(train), need_labels=True, option="--train")
    if learn.labels is None:
        raise UserError(f"{learn.name} has no labels, and the training images need some")
    if test is None:
        return [learn]
    return [learn, test if isinstance(test, Source) else open_source(str(test), option="--test")]


def pair(sources: list[Source], features: list[FeatureSet], seed: int, out: str | Path | None, progress: bool) -> Sides:
    """Both sides as they were given; or of a single source, by the split that is kept beside it, or in `out`."""
    if len(sources) == 2:
        return Sides(sources[0], features[0], sources[1], features[1], "given")
    held, split = held_out(sources[0], seed, Path(out) if out else None, progress)
    learn, ask = np.flatnonzero(~held), np.flatnonzero(held)
    learned, asked = (features[0].part(torch.from_numpy(index)) for index in (learn, ask))
    return Sides(take(sources[0], learn), learned, take(sources[0], ask), asked, split)


def describe(sides: Sides) -> dict[str, Any]:
    """Of a result."""
    return {
        "train": sides.learn.name,
        "test": sides.ask.name,
        "split": sides.split,
        "train_images": len(sides.learned),
        "test_images": len(sides.asked),
        "unreadable": {
            "train": len(sides.learn) - len(sides.learned),
            "test": len(sides.ask) - len(sides.asked),
        },
        "classes": sides.learn.classes,
    }
