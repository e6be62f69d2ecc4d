"""OBoW (arXiv 2012.11552): each crop of an image predicts which visual words a momentum teacher sees in the whole image.

A visual word is a feature of a place in some earlier image. The teacher's features of an image are softly assigned to the words of a
vocabulary, and the image's bag of words says how strongly each word occurs anywhere in it. The vocabulary is a queue: in each step
every image adds one word, and the oldest leave. A student's classifier cannot have a weight for each word, because words change;
so a small network, the generator, makes the weights out of the words.

Shapes: B images, h x w places of a feature map, N of them that are used, D width of a feature, K words; m runs over micro-batches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data.types import Needs, Views
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.fields import option, section
from dinolab.losses import prototype_cross_entropy
from dinolab.losses_clusters import bags_of_words
from dinolab.methods import momentum, pairs
from dinolab.methods.base import Alarm, Logs, StepValues, own_options
from dinolab.methods.figures import feature_figures, target_figures
from dinolab.methods.momentum import MomentumTeacher, momentum_schedule
from dinolab.methods.schedules import Phase, Schedule
from dinolab.methods.vocabulary import NEIGHBOURHOOD, Vocabulary
from dinolab.models.convnet import ConvNet
from dinolab.models.heads import ClusterHead
from dinolab.options import Config
from dinolab.panels import HEALTH, Panel
from dinolab.parallel import gather_over_ranks, sum_over_ranks, world

GENERATORS = ("generator", "generator_before")  # the student's networks that make weights of words, one for each level


@dataclass
class Head:
    hidden: int = option(0, "width of the generator's hidden layer (0: twice that of a feature)", 0, 65536)
    scale: float = option(8.0, "factor of the predictions, the paper's kappa", 1e-3, 1000)


@dataclass
class Words:
    number: int = option(8192, "visual words in the vocabulary, K", 2, 1 << 24)
    levels: int = option(
        1, "feature maps with a vocabulary; 1: the last; 2: that of the stage before it, too (ResNets alone)", 1, 2
    )
    sharpness: float = option(
        15.0,
        "how sharply features are assigned to words, the paper's 1/delta_base; divided by the mean squared distance to the nearest",
        1e-3,
        1000,
    )
    view_size: int = option(
        0, "side in pixels of the view of the whole image that the teacher sees (0: that of the global crops)", 0, 4096
    )


@dataclass
class Ema(momentum.Ema):
    start: float = option(0.99, "momentum of the teacher at the start", 0, 1)


@dataclass
class Options:
    head: Head = section(Head, "generator of the classifier's weights")
    words: Words = section(Words, "vocabulary of visual words")
    ema: Ema = section(Ema, "momentum of the teacher")


class Targets(NamedTuple):
    """What the teacher says of one micro-batch."""

    bags_BK: list[Tensor]  # of each level of features, the last first
    nearest_BN: Tensor  # int64, the nearest word of each place of the last level
    features_1BD: Tensor


class OBoW(MomentumTeacher):
    """The product is the student's backbone, as published.

    Local and global crops have the same weight in the loss, whatever their number, and the two means are added, as published. With
    several micro-batches or ranks the step is that of the whole batch, save that batch norm of a backbone takes the statistics of each
    micro-batch. The generator's batch norm takes those of the vocabulary, which are the same everywhere.
    """

    TITLE = "OBoW"
    PRODUCT = "student"
    Options: ClassVar[type] = Options
    PANELS = (
        pairs.CONTRAST,
        Panel(HEALTH, "words in a bag", {"words_of_image": "one image", "words_of_batch": "all images"}, zero=True),
        Panel(HEALTH, "words that are some place's nearest", {"words_used": "words"}, zero=True, percent=True),
        Panel(HEALTH, "squared distance to the nearest word", {"word_distance": "running mean"}, zero=True),
        Panel(HEALTH, "vocabulary filled", {"vocabulary_filled": "share"}, zero=True, percent=True),
        Panel(HEALTH, "effective rank of the features", {"effective_rank": "rank"}, zero=True),
        momentum.PANEL,
    )
    ALARMS: ClassVar[tuple[Alarm, ...]] = (
        Alarm(
            "flat",
            pairs.FLAT.shown_by,
            "the loss stays at that of guessing: crops predict nothing about the words of their image. Remedy: a lower head.scale, "
            "fewer words (words.number), a lower optim.lr, a longer optim.warmup, model.init=scaled",
        ),
        Alarm(
            "one bag of words",
            lambda line: "words_of_batch" in line and line["words_of_batch"] < 1.05 * line["words_of_image"],
            "all images have the same bag of words. Remedy: a higher words.sharpness, a lower optim.lr, a longer optim.warmup",
        ),
        Alarm(
            "starved vocabulary",
            lambda line: line.get("words_used", 1.0) < 0.05,
            "fewer than one in twenty of the words that could be is the nearest of any place. Remedy: fewer words (words.number), "
            "a higher ema.start, a lower optim.lr",
        ),
        Alarm(
            "vocabulary not full",
            lambda line: line.get("vocabulary_filled", 1.0) < 1,
            "after a tenth of the run the vocabulary still holds random vectors. Remedy: fewer words (words.number)",
        ),
        Alarm(
            "rank one",
            lambda line: line.get("effective_rank", math.inf) < 1.5,
            "the features differ along one direction at most. Remedy: a lower optim.lr, a longer optim.warmup, a lower head.scale",
        ),
    )

    def __init__(self, backbone: nn.Module, cfg: Config):
        options = own_options(cfg, Options)
        head, words, dim = options.head, options.words, cast(int, backbone.dim)
        widths = [dim, dim // 2][: words.levels]  # each stage of a ResNet doubles it
        made = [ClusterHead(width, head.hidden or 2 * dim, dim) for width in widths]
        super().__init__({"backbone": backbone}, alone=dict(zip(GENERATORS, made)))
        self.vocabularies = nn.ModuleList(Vocabulary(words.number, width, words.sharpness) for width in widths)
        self.temperature = 1 / head.scale
        self.chance = math.log(words.number) * (2 if cfg.views.locals else 1)  # the loss of guessing
        self.arriving: list[tuple[Tensor, Tensor]] = []  # the step's new words and mean distance, for each level

    @classmethod
    def check(cls, cfg: Config) -> None:
        words, batch, least = own_options(cfg, Options).words, cfg.optim.batch_size, cfg.model.patch_size
        if words.number < batch:
            raise UserError(
                f"words.number={words.number} is smaller than optim.batch_size={batch}: each image of a batch adds a word"
            )
        if 0 < words.view_size < least and not cfg.model.convolutional:
            raise UserError(f"words.view_size={words.view_size} is smaller than model.patch_size={least}")
        if words.levels == 2 and not cfg.model.size.startswith("resnet"):
            raise UserError(
                f"words.levels=2: model.size={cfg.model.size} has no stage before the last, only a ResNet has; set it to 1"
            )

    @classmethod
    def needs(cls, cfg: Config) -> Needs:
        return Needs(extra=partial(whole_view, size=own_options(cfg, Options).words.view_size or cfg.views.global_size))

    @classmethod
    def schedules(cls, cfg: Config, phase: Phase) -> dict[str, Schedule]:
        return momentum_schedule(own_options(cfg, Options).ema, phase)

    @torch.no_grad()
    def targets(self, batches: list[Views], s: StepValues) -> list[Targets]:
        seen = [self.look(cast(Tensor, views.extra)) for views in batches]
        levels = []
        self.arriving = []
        for level, vocabulary in enumerate(cast(list[Vocabulary], self.vocabularies)):
            maps, sharpness = [maps[level] for _, maps in seen], vocabulary.sharpness / vocabulary.distance
            found = [bags_of_words(x.flatten(1, 2), vocabulary.words, sharpness) for x in maps]
            distance = torch.cat([distances.flatten() for _, distances, _ in found]).mean()
            self.arriving.append((vocabulary.new_words(maps), sum_over_ranks(distance) / world()))
            levels.append(found)
        return [Targets([bags for bags, _, _ in found], found[0][2], cls) for (cls, _), *found in zip(seen, *levels)]

    def look(self, whole: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The teacher's class tokens (1, B, D) of whole images (B, C, S, S), and the map (B, h, w, D) of each level, the last first.

        The outermost places of a convolutional network's map are left out where the map is large enough: they have seen the padding.
        """
        network, earlier = self.teacher["backbone"], []
        if len(self.vocabularies) > 1:
            stage = cast(nn.Module, network.layer3)
            hook = stage.register_forward_hook(lambda _, __, out: earlier.append(out.movedim(1, -1)))
        (features,) = network([self.pixels(whole[None])])
        if len(self.vocabularies) > 1:
            hook.remove()
        maps = [features.patches, *earlier]
        if isinstance(network, ConvNet):
            maps = [x[:, 1:-1, 1:-1] if min(x.shape[1:3]) >= NEIGHBOURHOOD + 2 else x for x in maps]
        return features.cls[None], maps

    def loss(self, views: Views, targets: Targets, s: StepValues) -> tuple[Tensor, Logs]:
        _, cls_VD = self.student_features(views)
        b, device = len(views.indices), cls_VD.device
        kinds = [n for n in (2 * b, len(cls_VD) - 2 * b) if n]  # global and local crops
        each = torch.cat([torch.full((n,), 1 / n, dtype=targets.bags_BK[0].dtype, device=device) for n in kinds])
        rows = torch.arange(b, device=device).repeat(len(cls_VD) // b)
        losses = []
        for name, vocabulary, bags_BK in zip(GENERATORS, self.vocabularies, targets.bags_BK):
            weights_KD = self.student[name](F.normalize(cast(Tensor, vocabulary.words), dim=1))
            losses.append(prototype_cross_entropy(cls_VD, weights_KD, bags_BK, each, self.temperature, rows))
        loss = torch.stack(losses).mean()
        return loss, {"loss": loss.detach()}

    @torch.no_grad()
    def after_step(self, s: StepValues) -> None:
        """The teacher follows, and so do the vocabularies."""
        super().after_step(s)
        for vocabulary, arriving in zip(cast(list[Vocabulary], self.vocabularies), self.arriving):
            vocabulary.update(*arriving)
        self.arriving = []

    def figures(self, targets: list[Targets], parts: Mapping[str, float]) -> dict[str, float]:
        """Of the last level: the published perplexities of the bags, the share of words in use, and the vocabulary's state."""
        vocabulary = cast(Vocabulary, self.vocabularies[0])
        entropies = target_figures([t.bags_BK[0][None] for t in targets])
        nearest, k = gather_over_ranks(torch.cat([t.nearest_BN.flatten() for t in targets])), len(vocabulary.words)
        return feature_figures([t.features_1BD for t in targets]) | {
            "words_of_image": math.exp(entropies["teacher_entropy"]),
            "words_of_batch": math.exp(entropies["marginal_entropy"]),
            "words_used": nearest.unique().numel() / min(len(nearest), k),
            "word_distance": vocabulary.distance.item(),
            "vocabulary_filled": min(1.0, vocabulary.entered.item() / k),
            "chance": self.chance,
        }


def whole_view(image: Any, rng: np.random.Generator, size: int) -> Any:
    """The centre of an image (H, W, 3), uint8 (3, size, size), mirrored in half of all draws."""
    view = eval_view(image, size)
    return view[..., ::-1] if rng.random() < 0.5 else view
