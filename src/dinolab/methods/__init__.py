"""The methods, one file each."""

from dinolab.methods.dino import DINO
from dinolab.methods.dinov2 import DINOv2
from dinolab.methods.distill import Distillation

METHODS = {"dino": DINO, "dinov2": DINOv2, "distill": Distillation}
