"""The start of every evaluation and of `embed`: open an encoder, choose a device, decide how features are extracted."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dinolab.config import parse_size
from dinolab.data.types import Source
from dinolab.features.extract import Change, FeatureSet, extract
from dinolab.features.options import FeatureOptions
from dinolab.features.pixels import PixelEncoder
from dinolab.machine import loaders
from dinolab.parallel import choose_device
from dinolab.precision import choose_precision, name_of
from dinolab.weights.load import load

Encodes = str | Path | nn.Module  # what users name an encoder by


@dataclass(frozen=True)
class Extraction:
    """How features are extracted, the same for every source of a call."""

    size: tuple[int, int]  # height and width of the images, in pixels
    precision: str  # fp32 or bf16
    device: torch.device
    workers: int  # processes that load images
    cache: Path | None  # folder that keeps features
    progress: bool  # whether progress bars are shown

    def extract(
        self, encoder: Any, source: Source, blocks: int = 1, patches: bool = False, change: Change | None = None
    ) -> FeatureSet:
        """Features of all images of a source; see `dinolab.features.extract.extract`."""
        return extract(
            encoder, source, self.size, device=self.device, workers=self.workers, progress=self.progress,
            blocks=blocks, patches=patches, precision=self.precision, cache=self.cache, change=change,
        )  # fmt: skip


def extraction_arguments(encoder: Any, options: FeatureOptions, progress: bool) -> dict[str, Any]:
    """The fields of an `Extraction` for an opened encoder. Raises UserError for a device that is not there."""
    device = open_device(options.device, encoder)
    side = int(getattr(encoder, "image_size", 224))
    return {
        "size": parse_size(options.size, "size") or (side, side),
        "precision": name_of(choose_precision(options.precision, device)),
        "device": device,
        "workers": loaders(device.type) if options.workers < 0 else options.workers,
        "cache": None if options.cache == "none" else Path(options.cache).expanduser(),
        "progress": progress,
    }


def open_encoder(encoder: Encodes) -> tuple[str, Any]:
    """The name and the network, from a network, "pixels", or what `dinolab.load` takes."""
    if isinstance(encoder, nn.Module):
        return type(encoder).__name__, encoder
    return str(encoder), PixelEncoder() if encoder == "pixels" else load(encoder)


def device_of(encoder: Encodes) -> torch.device:
    """Where a network lies; the CPU for one that is yet to be loaded or has no tensors."""
    tensors = chain(encoder.parameters(), encoder.buffers()) if isinstance(encoder, nn.Module) else iter(())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def open_device(name: str, encoder: Encodes) -> torch.device:
    """The device of this name, which may be whatever the encoder lies on. Raises UserError where it is not there."""
    here = device_of(encoder)
    return here if name == str(here) else choose_device(name, "device=")


def python_options(encoder: Encodes, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords with the defaults of calls in Python: the encoder stays where it is, and no processes are started."""
    given = {key: value for key, value in values.items() if value is not None}
    return {"workers": 0} | given | {"device": str(given.get("device", device_of(encoder)))}
