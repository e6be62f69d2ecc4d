"""ResNet-50 (arXiv 1512.03385) as a backbone: timm's network, with the interface of our ViT."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.models.vit import Features
from dinolab.options import Model
from dinolab.pixels import RGB, Pixels

STAGES = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")


class ResNet50(nn.Module):
    """A ResNet-50 without its classifier. Parameter names are those of timm and torchvision.

    There is no class token: `cls` is the mean of the last feature map, and `patches` is that map, whose sides are 1/32 of the
    images' sides. Raises UserError where timm is not installed.
    """

    patch_size = 32

    def __init__(self, cfg: Model, image_size: int, pixels: Pixels = RGB):
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise UserError("model.size=resnet50 needs timm: pip install 'dinolab[timm]'") from error
        self.cfg, self.image_size, self.pixels = cfg, image_size, pixels
        # initial weights as torchvision's, which DINO began with: timm would zero the last batch norm of each branch
        network: Any = timm.create_model("resnet50", num_classes=0, zero_init_last=False, in_chans=pixels.channels)
        self.dim: int = network.num_features
        for name in STAGES:
            self.add_module(name, getattr(network, name))

    def describe(self) -> str:
        """The architecture in a few words."""
        return "ResNet-50"

    def forward(self, crops: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None) -> list[Features]:
        """Computes the features of several batches of crops, each batch of one size.

        Each batch goes through the network on its own, so that in training batch norm takes the statistics of each size of crop
        separately, as DINO does.

        Args:
            crops: normalised images, each (B_i, C, H_i, W_i).
            masks: None for each batch; a ResNet has no mask token.
        """
        assert masks is None or all(mask is None for mask in masks), "there is no mask token"
        return [self.features(images) for images in crops]

    def layers(
        self, crops: Sequence[Tensor], n: int, masks: Sequence[Tensor | None] | None = None
    ) -> list[list[Features]]:
        """The same as `forward`, in a list of one. Raises UserError for n above 1."""
        if n > 1:
            raise UserError(f"a ResNet-50 has no class token: only its last layer has features, not the last {n}")
        return [self(crops, masks)]

    def features(self, images: Tensor) -> Features:
        """The features of normalised images (B, C, H, W): cls (B, D), no registers, patches (B, H / 32, W / 32, D)."""
        x = images.to(next(self.parameters()).dtype)
        for stage in self.children():
            x = stage(x)
        cls = x.mean((2, 3))
        return Features(cls, cls.new_empty(len(cls), 0, self.dim), x.permute(0, 2, 3, 1))
