"""Convolutional networks as backbones: timm's networks, with the interface of our ViT."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dinolab.errors import UserError
from dinolab.models.stem import STARTER, STARTER_NETWORK
from dinolab.models.vit import Features
from dinolab.options import Model
from dinolab.pixels import RGB, Pixels


class Network(NamedTuple):
    """One of timm's networks whose features are the mean of the map before its child `global_pool`."""

    timm: str  # timm's name
    title: str
    options: Mapping[str, Any]  # of timm.create_model
    normalised: Pixels | None = None  # how its published weights want RGB pixels, where that is not as `RGB`


NETWORKS = {  # by model.size; options.CONVNETS has the names
    # initial weights as torchvision's, which DINO began with: timm would zero the last batch norm of each branch
    "resnet18": Network("resnet18", "ResNet-18", {"zero_init_last": False}),
    "resnet50": Network("resnet50", "ResNet-50", {"zero_init_last": False}),
    STARTER: Network(STARTER_NETWORK, "EfficientNet-Lite0", {}, replace(RGB, mean=(0.5,) * 3, deviation=(0.5,) * 3)),
}


class ConvNet(nn.Module):
    """A convolutional network without its classifier. Parameter names are those of timm, and for ResNets of torchvision.

    There is no class token: `cls` is the mean of the last feature map, and `patches` is that map, whose sides are 1/32 of the
    images' sides. Raises UserError where timm is not installed.
    """

    patch_size = 32

    def __init__(self, cfg: Model, image_size: int, pixels: Pixels = RGB):
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise UserError(f"model.size={cfg.size} needs timm: pip install 'dinolab[timm]'") from error
        which = NETWORKS[cfg.size]
        own = which.normalised if pixels.channels == RGB.channels else None
        self.cfg, self.image_size = cfg, image_size
        self.pixels = replace(pixels, mean=own.mean, deviation=own.deviation) if own else pixels
        network: Any = timm.create_model(which.timm, num_classes=0, in_chans=pixels.channels, **which.options)
        self.dim: int = network.num_features
        self.norms_frozen = False
        for name, stage in network.named_children():
            if name == "global_pool":
                break
            self.add_module(name, stage)

    def describe(self) -> str:
        """The architecture in a few words."""
        return NETWORKS[self.cfg.size].title

    def freeze_norms(self) -> None:
        """Hold batch norm fixed from now on: it normalises by its running statistics in training too, and its scales are not trained."""
        self.norms_frozen = True
        for norm in self.norms():
            norm.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ConvNet":
        super().train(mode)
        for norm in self.norms() if self.norms_frozen else []:
            norm.eval()
        return self

    def norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]

    def forward(self, crops: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None) -> list[Features]:
        """Computes the features of several batches of crops, each batch of one size.

        Each batch goes through the network on its own, so that in training batch norm takes the statistics of each size of crop
        separately, as DINO does.

        Args:
            crops: normalised images, each (B_i, C, H_i, W_i).
            masks: None for each batch; there is no mask token.
        """
        assert masks is None or all(mask is None for mask in masks), "there is no mask token"
        return [self.features(images) for images in crops]

    def layers(
        self, crops: Sequence[Tensor], n: int, masks: Sequence[Tensor | None] | None = None
    ) -> list[list[Features]]:
        """The same as `forward`, in a list of one. Raises UserError for n above 1."""
        if n > 1:
            raise UserError(f"{self.describe()} has no class token: only its last layer has features, not the last {n}")
        return [self(crops, masks)]

    def features(self, images: Tensor) -> Features:
        """The features of normalised images (B, C, H, W): cls (B, D), no registers, patches (B, H / 32, W / 32, D)."""
        x = images.to(next(self.parameters()).dtype)
        if x.device.type in ("cpu", "cuda"):  # where convolutions are quicker with the channels of a pixel side by side
            x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.children():
            x = stage(x)
        cls = x.mean((2, 3))
        return Features(cls, cls.new_empty(len(cls), 0, self.dim), x.permute(0, 2, 3, 1))
