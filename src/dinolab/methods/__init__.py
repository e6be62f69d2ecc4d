"""The ways to train a backbone, by the name that `method=` takes; the first is the default."""

from dinolab.methods.barlow import BarlowTwins
from dinolab.methods.base import Method
from dinolab.methods.byol import BYOL
from dinolab.methods.deepcluster import DeepCluster
from dinolab.methods.dino import DINO
from dinolab.methods.dinov2 import DINOv2
from dinolab.methods.distill import Distillation
from dinolab.methods.mocov2 import MoCo
from dinolab.methods.obow import OBoW
from dinolab.methods.simclr import SimCLR
from dinolab.methods.supervised import Supervised
from dinolab.methods.swav import SwAV
from dinolab.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    "dinov2": DINOv2,
    "dino": DINO,
    "distill": Distillation,
    "byol": BYOL,
    "mocov2": MoCo,
    "simclr": SimCLR,
    "barlow": BarlowTwins,
    "vicreg": VICReg,
    "swav": SwAV,
    "deepcluster": DeepCluster,
    "obow": OBoW,
    "supervised": Supervised,
}
