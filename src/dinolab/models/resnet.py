"""ResNet-50 (arXiv 1512.03385) as a backbone: timm's network, called as our ViT is."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.models.vit import Features
from dinolab.options import Model

STAGES = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")


class ResNet50(nn.Module):
    """Without a class token: `cls` is the mean of the last feature map, `patches` that map, of 1/32 of the images' sides.

    Parameter names are timm's and torchvision's, without a classifier. Raises UserError where timm is not installed.
    """

    patch_size = 32

    def __init__(self, cfg: Model, image_size: int):
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise UserError("model.size=resnet50 needs timm: pip install 'dinolab[timm]'") from error
        self.cfg, self.image_size = cfg, image_size
        # initial weights as torchvision's, which DINO began with: timm would zero the last batch norm of each branch
        network: Any = timm.create_model("resnet50", num_classes=0, zero_init_last=False)
        self.dim: int = network.num_features
        for name in STAGES:
            self.add_module(name, getattr(network, name))

    def describe(self) -> str:
        return "ResNet-50"

    def forward(self, crops: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None) -> list[Features]:
        """Features of several batches of crops, normalised images (B_i, 3, H_i, W_i); each goes through by itself, so in
        training each size of crop has batch-norm statistics of its own, as in DINO. `masks` must hold none."""
        assert masks is None or all(mask is None for mask in masks), "there is no mask token"
        return [self.features(images) for images in crops]

    def layers(
        self, crops: Sequence[Tensor], n: int, masks: Sequence[Tensor | None] | None = None
    ) -> list[list[Features]]:
        """As forward, for n = 1; raises UserError for more."""
        if n > 1:
            raise UserError(f"a ResNet-50 has no class token: its last layer alone can be had, not the last {n}")
        return [self(crops, masks)]

    def features(self, images: Tensor) -> Features:
        x = images.to(next(self.parameters()).dtype)
        for stage in self.children():
            x = stage(x)
        cls = x.mean((2, 3))
        return Features(cls, cls.new_empty(len(cls), 0, self.dim), x.permute(0, 2, 3, 1))
