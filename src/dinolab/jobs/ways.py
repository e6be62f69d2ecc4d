"""The ways to a network for somebody's images, as a table: what each trains, and its share of the time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from dinolab.errors import UserError
from dinolab.weights.starter import PACKAGE, STARTER

GIVEN, PRETRAINED, LABELS = "given", "pretrained", "labels"  # kinds of ways
NEAREST, REGRESSION, FINETUNING = "knn", "logreg", "finetune"  # evaluations
SIZE = 160  # side of the images in pixels at which networks are evaluated, and fine-tuned at most
SMALL = "small"  # stands for the recipe that fits the number of images
RECIPES = ((2_000, "small_1k"), (30_000, "small_10k"))  # up to so many images
LARGEST = "small_100k"
INSTALL = "pip install 'dinolab[starter]'"


@dataclass(frozen=True)
class Way:
    """One way to a network."""

    title: str  # for tables and sentences
    kind: str  # GIVEN: weights as they are; PRETRAINED: trained without labels; LABELS: all weights trained with labels
    share: float = 0.0  # of the time for training; what is left out leaves its share to the others
    recipe: str = ""
    words: tuple[str, ...] = ()  # options on top of the recipe
    encoder: str = ""  # of a GIVEN way: what dinolab.load takes
    best: bool = False  # starts from the best network of the ways before; else from untrained weights
    starter: bool = False  # needs the starter encoder


UNTRAINED = "untrained"  # the way that the others are compared with where no network is given

WAYS = {
    UNTRAINED: Way("network with initial weights", GIVEN),
    "frozen": Way("starter encoder as it is", GIVEN, encoder=STARTER, starter=True),
    "distilled": Way("distilled from the starter", PRETRAINED, 0.28, "distill_small", starter=True),
    "continued": Way("starter trained on without labels", PRETRAINED, 0.28, "continue_starter", starter=True),
    "scratch": Way("trained from scratch without labels", PRETRAINED, 0.16, SMALL),
    "supervised": Way("trained from scratch with labels", LABELS, 0.10),
    "finetuned": Way("best network fine-tuned with labels", LABELS, 0.18, best=True),
}


def recipe_for(way: Way, images: int) -> str:
    """The name of the recipe that a way trains by with so many images."""
    if way.recipe != SMALL:
        return way.recipe
    return next((name for most, name in RECIPES if images <= most), LARGEST)


def has_starter() -> bool:
    """Whether the starter encoder can be loaded."""
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        return False
    return find_spec("timm") is not None


def choose(named: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The ways to go, in their order, and why others are left out. The first one is that which the others are compared with.

    Args:
        named: names of ways; empty for all.

    Raises:
        UserError: a name is not that of a way.
    """
    for name in named:
        if name not in WAYS:
            raise UserError(f"ways={','.join(named)}: {name!r} is not one of {', '.join(WAYS)}")
    wanted = [name for name in WAYS if name in named or (not named and name != UNTRAINED)]
    left_out: dict[str, str] = {}
    if not has_starter():
        left_out |= {name: f"needs the starter encoder: {INSTALL}" for name in wanted if WAYS[name].starter}
    if find_spec("timm") is None:
        labelled = [name for name in wanted if WAYS[name].kind == LABELS]
        left_out |= dict.fromkeys(labelled, "needs timm: pip install 'dinolab[timm]'")
    kept = [name for name in wanted if name not in left_out]
    return kept if any(WAYS[name].kind == GIVEN for name in kept) else [UNTRAINED, *kept], left_out


def without_labels(names: Iterable[str]) -> list[str]:
    """The ways among these whose networks are given or trained without labels."""
    return [name for name in names if WAYS[name].kind != LABELS]
