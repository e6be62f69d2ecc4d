"""SimCLR (arXiv 2002.05709, Algorithm 1): each crop finds the other crop of its image among all crops of the batch.

Shapes: B images, K width of an embedding.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from dinolab.fields import option, section
from dinolab.losses_pairs import nt_xent
from dinolab.methods import pairs
from dinolab.methods.base import Alarm, Logs
from dinolab.methods.pairs import WholeBatch
from dinolab.parallel import world


@dataclass
class Projector(pairs.Projector):
    out: int = option(128, "width of the embedding", 1, 65536)


@dataclass
class Loss:
    temperature: float = option(0.1, "temperature of the softmax over crops", 1e-3, 10)


@dataclass
class Options:
    head: Projector = section(Projector, "projection head of the class token")
    loss: Loss = section(Loss, "temperature of the contrast")


class SimCLR(WholeBatch):
    TITLE = "SimCLR"
    Options: ClassVar[type] = Options
    PANELS = (pairs.CONTRAST, pairs.ACCURACY, *pairs.PANELS)
    ALARMS: ClassVar[tuple[Alarm, ...]] = (*pairs.ALARMS, pairs.FLAT)

    def compare(self, first: Tensor, second: Tensor) -> tuple[Tensor, Logs]:
        loss, accuracy = nt_xent(first, second, self.loss_options.temperature)
        return loss, {"loss": loss.detach(), "accuracy": accuracy}

    def figures(self, targets: list[Any], parts: Mapping[str, float]) -> dict[str, float]:
        assert self.seen is not None
        crops = 2 * self.seen[1].shape[1] * len(targets) * world()
        return super().figures(targets, parts) | {"chance": math.log(crops - 1)}
