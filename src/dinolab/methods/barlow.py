"""Barlow Twins (arXiv 2103.03230, Algorithm 1): the embeddings of both crops correlate channel by channel, and not across channels.

Shapes: B images, K width of an embedding.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dinolab.fields import option, section
from dinolab.losses_pairs import barlow_twins
from dinolab.methods import pairs
from dinolab.methods.base import Logs
from dinolab.methods.pairs import WholeBatch
from dinolab.panels import LOSS, Panel


@dataclass
class Projector(pairs.Projector):
    hidden: int = option(8192, "width of the hidden layers", 1, 65536)
    out: int = option(8192, "width of the embedding", 1, 65536)
    layers: int = option(3, "layers of the MLP", 1, 10)


@dataclass
class Loss:
    redundancy: float = option(0.0051, "weight of the correlations between different channels", 0, 10)


@dataclass
class Options:
    head: Projector = section(Projector, "projection head of the class token")
    loss: Loss = section(Loss, "weights of the cross-correlation")


class BarlowTwins(WholeBatch):
    TITLE = "Barlow Twins"
    Options: ClassVar[type] = Options
    PANELS = (
        Panel(LOSS, "loss", {"loss": "loss", "invariance": "diagonal"}, log=True),
        Panel(LOSS, "squared correlations of different channels", {"redundancy": "sum"}, log=True),
        *pairs.PANELS,
    )

    def compare(self, first: Tensor, second: Tensor) -> tuple[Tensor, Logs]:
        invariance, redundancy = barlow_twins(first, second)
        loss = invariance + self.loss_options.redundancy * redundancy
        return loss, {"loss": loss.detach(), "invariance": invariance.detach(), "redundancy": redundancy.detach()}
