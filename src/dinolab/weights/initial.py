"""Training that goes on from existing weights, and position embeddings for images of another size."""

from torch import Tensor

from dinolab.errors import UserError
from dinolab.models.backbone import Backbone
from dinolab.models.vit import resample_positions, shape_of
from dinolab.options import Model
from dinolab.weights.load import load
from dinolab.weights.timm_models import TimmEncoder


def start_from(backbone: Backbone, source: str) -> None:
    """Fill a backbone with the weights of anything that `load` opens as one of ours, positions resampled to its own grid.

    It may differ in what changes no weight's meaning: drop_path, init, how positions are resampled, LayerScale's first value.
    Raises UserError with the options to set where the architectures differ.
    """
    given = load(source)
    if isinstance(given, TimmEncoder):
        raise UserError(f"init.weights={source}: a timm model; training goes on from our own ViT or ResNet-50 alone")
    theirs = given.backbone
    words = options_to_change(backbone.cfg, theirs.cfg)
    if words:
        what = f"init.weights={source} is a {theirs.describe()} of another architecture"
        raise UserError(f"{what}; to go on with it, set {words}")
    backbone.load_state_dict(resized(theirs.state_dict(), theirs.cfg, backbone.image_size))


def resized(state: dict[str, Tensor], cfg: Model, image_size: int) -> dict[str, Tensor]:
    """A state dict, of a backbone or of what holds several, with each `pos_embed` resampled to the grid of another image size.

    All other tensors are those given.
    """
    side = image_size // cfg.patch_size
    return {
        name: resample_positions(tensor, (side, side), cfg) if name.split(".")[-1] == "pos_embed" else tensor
        for name, tensor in state.items()
    }


def options_to_change(now: Model, then: Model) -> str:
    """The words, `model.NAME=VALUE ...`, by which `now` gets the architecture of `then`; none where it has it already."""
    names = ["patch_size", "registers", "ffn"]
    resnet = "resnet50" in (now.size, then.size)
    if now.size != then.size if resnet else shape_of(now) != shape_of(then):
        names = ["size", "dim", "depth", "heads", *names]
    if bool(now.layerscale) != bool(then.layerscale):
        names.append("layerscale")
    return " ".join(f"model.{n}={getattr(then, n)}" for n in names if getattr(now, n) != getattr(then, n))
