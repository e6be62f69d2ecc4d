"""The encoders of a comparison: their names, and an architecture with initial weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from dinolab.errors import UserError
from dinolab.features.inputs import Encodes, open_encoder
from dinolab.models.backbone import make_backbone
from dinolab.models.encoder import BackboneEncoder
from dinolab.weights.initial import start_stem

UNTRAINED = "untrained"


def untrained(like: Encodes, seed: int) -> BackboneEncoder:
    """The architecture of the encoder `like` with initial weights; its stem, if it has one, keeps its pretrained ones.

    Raises UserError where dinolab cannot build it, or cannot open the stem's weights.
    """
    name, trained = open_encoder(like)
    backbone = getattr(trained, "backbone", None)
    if backbone is None:
        raise UserError(f"{UNTRAINED}: takes the architecture of a run; dinolab cannot build that of {name} anew")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = make_backbone(backbone.cfg, backbone.image_size, pixels=backbone.pixels)
    start_stem(fresh)  # which was never untrained
    return BackboneEncoder(fresh, {"untrained": name, "seed": seed}).requires_grad_(False).eval()


def names(encoders: Sequence[Encodes]) -> list[str]:
    """The names that the encoders were given; networks are named by their class, with a number where there are several."""
    plain = [type(one).__name__ if isinstance(one, nn.Module) else str(one) for one in encoders]
    return [name if plain.count(name) == 1 else f"{name} {plain[: n + 1].count(name)}" for n, name in enumerate(plain)]


def labels(encoders: list[str]) -> list[str]:
    """Short names that differ: a path's last part, or as many parts as it takes."""
    found = []
    for one in encoders:
        parts = Path(one).parts if Path(one).exists() else (one,)
        others = [Path(other).parts for other in encoders if other != one]
        length = next((n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others)), len(parts))
        found.append("/".join(parts[-length:]))
    return found
