"""Training that starts from existing weights, and position embeddings for images of another size."""

from typing import Any, cast

import torch
from torch import Tensor

from dinolab.errors import UserError
from dinolab.models.backbone import Backbone
from dinolab.models.convnet import NETWORKS, ConvNet
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.stem import StemEmbed
from dinolab.models.vit import ViT, resample_positions, shape_of
from dinolab.options import Model
from dinolab.pixels import Pixels
from dinolab.weights.load import load
from dinolab.weights.timm_models import TimmEncoder


def start_from(backbone: Backbone, source: str) -> None:
    """Fills a backbone with existing weights. Position embeddings are resampled to its grid.

    The two may differ in options that do not change the meaning of a weight: drop_path, init, how positions are resampled, and
    the first value of LayerScale.

    Args:
        backbone: of the new run.
        source: any source that `load` opens as a ViT of dinolab, or as one of the convolutional networks that `model.size` names.

    Raises:
        UserError: the architectures differ; the message gives the options to set. Or the images have other channels, or the weights
            want them normalised in a way that the network cannot take over.
    """
    given = load(source)
    theirs = given.backbone if isinstance(given, BackboneEncoder) else from_timm(given, source)
    words = options_to_change(backbone.cfg, theirs.cfg)
    if words:
        what = f"init.weights={source} has another architecture ({theirs.describe()})"
        raise UserError(f"{what}; to start from it, set {words}")
    if theirs.pixels.channels != backbone.pixels.channels:
        channels = f"{theirs.pixels.channels} channels, the images have {backbone.pixels.channels}"
        raise UserError(f"init.weights={source} takes images of {channels}; start from other weights")
    state = resized(theirs.state_dict(), theirs.cfg, backbone.image_size)
    given_as, ours_as = ((p.mean, p.deviation) for p in (theirs.pixels, backbone.pixels))
    if given_as != ours_as:
        if not isinstance(backbone, ViT):
            raise UserError(
                f"init.weights={source}: its images have mean and deviation {given_as}, those of the run {ours_as}; "
                "start from other weights"
            )
        state |= renormalised(state, theirs.pixels, backbone.pixels)
    backbone.load_state_dict(state)


def from_timm(given: Any, source: str) -> ConvNet:
    """A model of timm as our convolutional network. Raises UserError where it is none that can be trained."""
    architecture = given.model.pretrained_cfg["architecture"] if isinstance(given, TimmEncoder) else ""
    size = next((size for size, network in NETWORKS.items() if network.timm == architecture), None)
    if size is None:
        known = ", ".join(network.timm for network in NETWORKS.values())
        raise UserError(
            f"init.weights={source}: a timm model; training can start from dinolab's own ViTs, and from timm's {known}"
        )
    network = ConvNet(Model(size=size), given.image_size, given.pixels)
    network.load_state_dict(given.model.state_dict())
    return network


def renormalised(state: dict[str, Tensor], theirs: Pixels, ours: Pixels) -> dict[str, Tensor]:
    """The patch embedding of a ViT, changed so that images normalised as `ours` give what those normalised as `theirs` gave."""
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    their_mean, mean, their_deviation, deviation = (
        torch.tensor(x, dtype=weight.dtype) for x in (theirs.mean, ours.mean, theirs.deviation, ours.deviation)
    )
    scale, shift = deviation / their_deviation, (mean - their_mean) / their_deviation
    return {
        "patch_embed.proj.weight": weight * scale.view(-1, 1, 1),
        "patch_embed.proj.bias": bias + (weight.sum((2, 3)) * shift).sum(1),
    }


def start_stem(backbone: Backbone) -> None:
    """Fills the stem of a ViT with the pretrained weights that its `model.stem` names; without a stem nothing happens.

    Raises UserError where they cannot be opened.
    """
    if isinstance(backbone, ViT) and isinstance(backbone.patch_embed, StemEmbed):
        stem, whole = backbone.patch_embed.stem, cast(TimmEncoder, load(backbone.cfg.stem)).model.state_dict()
        stem.load_state_dict({name: whole[name] for name in stem.state_dict()})


def resized(state: dict[str, Tensor], cfg: Model, image_size: int) -> dict[str, Tensor]:
    """Resamples the position embeddings in a state dict to the grid of another image size.

    Args:
        state: of a backbone, or of a module that holds several. Tensors that are not named `pos_embed` are returned as they are.
        cfg: the architecture of the backbones.
        image_size: side in pixels.
    """
    side = image_size // cfg.patch_size
    return {
        name: resample_positions(tensor, (side, side), cfg) if name.split(".")[-1] == "pos_embed" else tensor
        for name, tensor in state.items()
    }


def options_to_change(now: Model, then: Model) -> str:
    """The words `model.NAME=VALUE ...` that change the architecture of `now` to that of `then`; "" where they are the same."""
    names = ["patch_size", "stem", "registers", "ffn"]
    convolutional = now.convolutional or then.convolutional
    if now.size != then.size if convolutional else shape_of(now) != shape_of(then):
        names = ["size", "dim", "depth", "heads", *names]
    if bool(now.layerscale) != bool(then.layerscale):
        names.append("layerscale")
    return " ".join(f"model.{n}={getattr(then, n)}" for n in names if getattr(now, n) != getattr(then, n))
