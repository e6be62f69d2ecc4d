"""The first stages of a convolutional network as the patch embedding of a ViT: the hybrid of arXiv 2010.11929, section 3.1.

Shapes: B images of H x W pixels, p their patches' side, h x w patches, D width of a token.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dinolab.errors import UserError, reason
from dinolab.models.layers import LayerNorm
from dinolab.pixels import Pixels

STARTER = "starter"
STARTER_NETWORK = "tf_efficientnet_lite0"  # timm's name


class StemEmbed(nn.Module):
    """A network's stages up to the one of stride p, layer norm over channels, and a linear layer: (B, 3, H, W) -> (B, h, w, D).

    `stem` is timm's network without its later stages. It takes no gradient unless the caller asks for it. It is always in
    evaluation mode, so that its batch norms keep their statistics also where its weights are trained. Neighbouring patches share
    pixels, because the convolutions overlap; so the neighbours of a patch that iBOT masks have seen some of it.

    Args:
        name: the value of model.stem: `starter`, `timm:NAME` or `timm:NAME=FILE`. Weights are random: `weights.initial.start_stem`
            fills in the pretrained ones.
        patch_size: p.
        dim: D.
        pixels: those that the ViT takes; the stem gets them as its own mean and deviation ask for.

    Raises:
        UserError: timm is missing or has no such network, the network has no stage of this stride, or images are not RGB.
    """

    scale: Tensor  # (3, 1, 1), from the ViT's normalisation of pixels to the stem's
    shift: Tensor

    def __init__(self, name: str, patch_size: int, dim: int, pixels: Pixels):
        super().__init__()
        if pixels.channels != 3:
            raise UserError(
                f"model.stem={name} takes RGB images, and these have {pixels.channels} channels: leave it out"
            )
        self.patch_size = patch_size
        network = timms_network(name)
        self.stage = stage_of_stride(network, patch_size, name)
        self.stem = network.eval().requires_grad_(False)
        channels = self.check(name)
        self.norm = LayerNorm(channels, eps=1e-6)
        self.proj = nn.Linear(channels, dim)
        (mean, deviation), (own_mean, own_deviation) = normalisation(network), (pixels.mean, pixels.deviation)
        scale = torch.tensor([a / b for a, b in zip(own_deviation, deviation)])
        shift = torch.tensor([(a - b) / c for a, b, c in zip(own_mean, mean, deviation)])
        self.register_buffer("scale", scale.view(-1, 1, 1))
        self.register_buffer("shift", shift.view(-1, 1, 1))

    def check(self, name: str) -> int:
        """Leaves out the later stages; returns the number of channels. Raises UserError where this is no map for images of any size."""
        try:
            self.stem.prune_intermediate_layers([self.stage], prune_norm=True, prune_head=True)  # type: ignore[operator]
            with torch.no_grad():
                _, channels, *grid = self.maps(torch.zeros(1, 3, 2 * self.patch_size, 3 * self.patch_size)).shape
        except (AssertionError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"model.stem={name}: its first stages cannot be used alone ({reason(error)})") from error
        if grid != [2, 3]:
            raise UserError(f"model.stem={name}: not a convolutional network, so it cannot be a stem")
        return channels

    def maps(self, images: Tensor) -> Tensor:
        """The last stage's maps (B, channels, h, w) of images in the stem's own normalisation."""
        (last,) = self.stem.forward_intermediates(images, indices=[self.stage], intermediates_only=True)  # type: ignore[operator]
        return last

    def forward(self, images: Tensor) -> Tensor:
        """Images normalised as the ViT takes them. A remainder at the bottom or right, smaller than a patch, is left out."""
        h, w = (side // self.patch_size * self.patch_size for side in images.shape[-2:])
        x = images[..., :h, :w] * self.scale + self.shift
        if x.device.type in ("cpu", "cuda") and not torch.compiler.is_exporting():
            x = x.contiguous(memory_format=torch.channels_last)  # a pixel's channels side by side: half the time
        return self.proj(self.norm(self.maps(x).permute(0, 2, 3, 1)))

    def train(self, mode: bool = True) -> "StemEmbed":
        super().train(mode)
        self.stem.eval()
        return self


def timms_network(name: str) -> Any:
    """timm's network that a value of model.stem names, with random weights. Raises UserError where there is none."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"model.stem={name} needs timm: pip install 'dinolab[starter]'") from error
    kind, _, rest = name.partition(":")
    architecture = STARTER_NETWORK if name == STARTER else rest.partition("=")[0]
    if (name != STARTER and kind != "timm") or not timm.is_model(architecture):
        known = f"timm has no network {architecture!r}" if kind == "timm" else "not the name of a stem"
        raise UserError(
            f"model.stem={name}: {known}; write starter, timm:NAME or timm:NAME=FILE (timm.list_models() has names)"
        )
    network = timm.create_model(architecture, num_classes=0)
    if not hasattr(network, "prune_intermediate_layers"):
        raise UserError(f"model.stem={name}: timm gives no feature maps of this network's stages")
    return network


def stage_of_stride(network: Any, stride: int, name: str) -> int:
    """The number of the last stage whose maps are 1 / stride of the image. Raises UserError where there is none."""
    strides = [stage["reduction"] for stage in network.feature_info]
    if stride not in strides:
        known = ", ".join(map(str, sorted(set(strides))))
        raise UserError(f"model.patch_size={stride}: model.stem={name} has stages of stride {known}; set one of these")
    return len(strides) - 1 - strides[::-1].index(stride)


def normalisation(network: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation that the network was trained with."""
    from timm.data import resolve_model_data_config

    data = resolve_model_data_config(network)
    return tuple(data["mean"]), tuple(data["std"])
