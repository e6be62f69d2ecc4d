"""The networks that methods train."""

from dinolab.models.resnet import ResNet50
from dinolab.models.vit import ViT
from dinolab.options import Model

Backbone = ViT | ResNet50


def make_backbone(cfg: Model, image_size: int, attention_backend: str = "sdpa") -> Backbone:
    """What `model.` asks for, with initial weights. `image_size` sets the grid of a ViT's position embeddings."""
    return ResNet50(cfg, image_size) if cfg.size == "resnet50" else ViT(cfg, image_size, attention_backend)
