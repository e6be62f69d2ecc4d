"""Training that starts from existing weights, and position embeddings for images of another size."""

from typing import cast

from torch import Tensor

from dinolab.errors import UserError
from dinolab.models.backbone import Backbone
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.stem import StemEmbed
from dinolab.models.vit import ViT, resample_positions, shape_of
from dinolab.options import Model
from dinolab.weights.load import load
from dinolab.weights.timm_models import TimmEncoder


def start_from(backbone: Backbone, source: str) -> None:
    """Fills a backbone with existing weights. Position embeddings are resampled to its grid.

    The two may differ in options that do not change the meaning of a weight: drop_path, init, how positions are resampled, and
    the first value of LayerScale.

    Args:
        backbone: of the new run.
        source: any source that `load` opens as a ViT or ResNet-50 of dinolab.

    Raises:
        UserError: the architectures differ; the message gives the options to set. Or the images have other channels.
    """
    given = load(source)
    if not isinstance(given, BackboneEncoder):
        raise UserError(
            f"init.weights={source}: a timm model; training can only start from dinolab's own ViT or ResNet-50"
        )
    theirs = given.backbone
    words = options_to_change(backbone.cfg, theirs.cfg)
    if words:
        what = f"init.weights={source} has another architecture ({theirs.describe()})"
        raise UserError(f"{what}; to start from it, set {words}")
    if theirs.pixels.channels != backbone.pixels.channels:
        channels = f"{theirs.pixels.channels} channels, the images have {backbone.pixels.channels}"
        raise UserError(f"init.weights={source} takes images of {channels}; start from other weights")
    backbone.load_state_dict(resized(theirs.state_dict(), theirs.cfg, backbone.image_size))


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
    resnet = "resnet50" in (now.size, then.size)
    if now.size != then.size if resnet else shape_of(now) != shape_of(then):
        names = ["size", "dim", "depth", "heads", *names]
    if bool(now.layerscale) != bool(then.layerscale):
        names.append("layerscale")
    return " ".join(f"model.{n}={getattr(then, n)}" for n in names if getattr(now, n) != getattr(then, n))
