"""The networks that methods train."""

from dinolab.models.convnet import ConvNet
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.pixels import RGB, Pixels

Backbone = ViT | ConvNet


def make_backbone(cfg: Model, image_size: int, attention_backend: str = "mixed", pixels: Pixels = RGB) -> Backbone:
    """Builds the network that `model.` describes, with initial weights.

    Args:
        cfg: the options `model.`.
        image_size: side of the images in pixels; it sets the grid of a ViT's position embeddings.
        attention_backend: one of `attention.BACKENDS`; a convolutional network has no use for it.
        pixels: the pixels that the network takes.

    Raises:
        UserError: the options contradict each other, or timm is missing, which convolutional networks need.
    """
    if cfg.convolutional:
        return ConvNet(cfg, image_size, pixels)
    return ViT(cfg, image_size, attention_backend, pixels)
