"""VICReg (arXiv 2105.04906, Algorithm 1): embeddings of both crops agree, every channel varies, and channels do not covary.

Shapes: B images, K width of an embedding.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dinolab.fields import option, section
from dinolab.losses_pairs import vicreg
from dinolab.methods import pairs
from dinolab.methods.barlow import Projector
from dinolab.methods.base import Logs
from dinolab.methods.pairs import WholeBatch
from dinolab.panels import LOSS, Panel


@dataclass
class Loss:
    invariance: float = option(25.0, "weight of the squared distance between the two crops", 0, 1000)
    variance: float = option(25.0, "weight of what the channels' deviations lack of 1", 0, 1000)
    covariance: float = option(1.0, "weight of the squared covariances of different channels", 0, 1000)


@dataclass
class Options:
    head: Projector = section(Projector, "projection head of the class token")
    loss: Loss = section(Loss, "weights of the parts of the loss")


class VICReg(WholeBatch):
    TITLE = "VICReg"
    Options: ClassVar[type] = Options
    PANELS = (
        Panel(LOSS, "loss", {"loss": "loss"}, zero=True),
        Panel(LOSS, "parts of the loss", {name: name for name in ("invariance", "variance", "covariance")}, log=True),
        *pairs.PANELS,
    )

    def compare(self, first: Tensor, second: Tensor) -> tuple[Tensor, Logs]:
        weights, names = self.loss_options, ("invariance", "variance", "covariance")
        parts = dict(zip(names, vicreg(first, second)))
        loss = sum((getattr(weights, name) * part for name, part in parts.items()), first.new_zeros(()))
        return loss, {"loss": loss.detach(), **{name: part.detach() for name, part in parts.items()}}
