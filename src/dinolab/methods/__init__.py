"""The ways to train a backbone, by the name that `method=` takes; the first is the default."""

from dinolab.methods.base import Method
from dinolab.methods.deepcluster import DeepCluster
from dinolab.methods.dino import DINO
from dinolab.methods.dinov2 import DINOv2
from dinolab.methods.distill import Distillation
from dinolab.methods.supervised import Supervised
from dinolab.methods.swav import SwAV

METHODS: dict[str, type[Method]] = {
    "dinov2": DINOv2,
    "dino": DINO,
    "distill": Distillation,
    "swav": SwAV,
    "deepcluster": DeepCluster,
    "supervised": Supervised,
}
