"""Is the run learning? Figures from the teacher's targets and features, and alarms in words with their remedy."""

import math
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dinolab.losses import entropy
from dinolab.methods.base import Targets
from dinolab.parallel import gather_over_ranks, sum_over_ranks, world

WINDOW = 5  # lines of the log that must agree before an alarm is raised


@torch.no_grad()
def figures(targets: list[Targets]) -> dict[str, float]:
    """Health figures of one step's targets (all micro-batches, all ranks).

    teacher_entropy      mean entropy of the targets, in nats; log K means that they say nothing
    marginal_entropy     entropy of the mean target, in nats; 0 means that all images share one prototype
    prototypes_used      share of the prototypes that are some crop's first choice, of those that could be
    effective_rank       exp of the entropy of the features' normalised singular values (Roy and Vetterli, 2007), centred;
                         left out where targets come without features (distillation)
    """
    p = torch.cat([t.cls_2BK for t in targets], dim=1).flatten(0, 1).float()
    features = [t.features_2BD for t in targets if t.features_2BD is not None]
    chosen = gather_over_ranks(p.argmax(-1))
    found = {
        "teacher_entropy": sum_over_ranks(entropy(p).mean()).item() / world(),
        "marginal_entropy": entropy(sum_over_ranks(p.mean(0)) / world()).item(),
        "prototypes_used": chosen.unique().numel() / min(len(chosen), p.shape[1]),
    }
    if features:
        x = torch.cat(features, dim=1).flatten(0, 1).float()
        found["effective_rank"] = effective_rank(gather_over_ranks(x))
    return found


def effective_rank(features: Tensor) -> float:
    """Of (n, D) features with their mean taken out, at most 1024 of them; 1 for features on one line, 0 for constant ones."""
    x = features[:1024] - features[:1024].mean(0)
    if x.norm() <= 1e-6 * max(1.0, features[:1024].norm().item()):
        return 0.0
    s = torch.linalg.svdvals(x.cpu())
    return math.exp(entropy(s / s.sum()).item())


REMEDIES = {
    "flat": "the loss stays at log K: the student predicts nothing of what the teacher says. Remedy: model.init=scaled, a lower "
    "ema.start (0.9 or less for runs of a few thousand steps), a lower loss.teacher_temperature, head.batch_norm=true; "
    "see docs/small-runs.md",
    "collapse": "all images go to one prototype. Remedy: loss.targets=sinkhorn, or a lower loss.centre_momentum, "
    "a higher loss.teacher_temperature, a longer optim.freeze_prototypes",
    "rank one": "the features differ along one direction at most. Remedy: a lower optim.lr, a longer optim.warmup, "
    "method=dinov2 with loss.koleo=0.1, head.batch_norm=true",
    "KoLeo is infinite": "features lie on top of each other. Remedy: remove duplicate images, a larger "
    "optim.batch_size, a lower optim.lr, or loss.koleo=0",
}


@dataclass
class Alarms:
    """Looks at the log's lines as they come and says each trouble once. `log_k` is the logarithm of the prototypes."""

    log_k: float
    patience: int  # steps before which nothing counts as trouble
    last: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    raised: set[str] = field(default_factory=set)

    def look(self, line: dict[str, float]) -> list[str]:
        """New alarms after this line of the log: those that all of the last few lines show."""
        self.last.append(line)
        if len(self.last) < WINDOW or line["step"] < self.patience:
            return []
        lasting = set.intersection(*(self.troubles(line) for line in self.last)) - self.raised
        self.raised |= lasting
        return [f"{name}: {REMEDIES[name]}" for name in sorted(lasting)]

    def troubles(self, line: dict[str, float]) -> set[str]:
        koleo = line.get("koleo", 0.0)
        signs = {
            "flat": line["dino"] > 0.98 * self.log_k,
            "collapse": line["marginal_entropy"] < 0.05 * self.log_k,
            "rank one": line.get("effective_rank", math.inf) < 1.5,
            "KoLeo is infinite": not math.isfinite(koleo) or koleo > 25,  # it sums two crops, each at most 15 to 18
        }
        return {name for name, seen in signs.items() if seen}
