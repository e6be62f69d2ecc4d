"""Whether the training without labels helped: the run's network against others that were asked of the same images."""

import math

from dinolab.report.facts import Result, Run
from dinolab.report.images import read_predictions
from dinolab.report.settings import OPTIONS
from dinolab.report.tables import percent

MAIN = ("linear", "knn")  # the first of them that others have figures of, too
SAME = ("train", "test", "split", "train_images", "test_images")  # of the data, where figures can be compared
Z = 1.96  # deviations on either side that 95 % of a normal distribution lie within


def verdict(run: Run) -> str:
    """A short paragraph; empty where there is nothing to compare with."""
    for kind in MAIN:
        own = [(r, rivals(run, r)) for r in run.results if r.kind == kind and run.is_own(r)]
        result, others = max(own, key=lambda found: len(found[1]), default=(None, {}))
        if result and result.accuracy is not None and result.interval and others:
            accuracy = f"Its {result.words} accuracy is {percent(result.accuracy)}"
            against = " ".join(sentence(result, other, name, run.problems) for name, other in others.items())
            return (
                f"{accuracy} (95 % interval {points(*result.interval)}). {against} "
                "The intervals are over test images, not over other trainings."
            )
    return ""


def rivals(run: Run, own: Result) -> dict[str, Result]:
    """The untrained network, raw pixels, and the untrained network trained with labels; as far as they are there."""
    others = [
        r for r in run.results
        if not run.is_own(r) and r.accuracy is not None and r.interval and all(own.data.get(k) == r.data.get(k) for k in SAME)
    ]  # fmt: skip
    mine, options = own.content["protocol"], OPTIONS.get(own.kind, ())
    alike = [
        r for r in others if r.kind == own.kind and all(mine.get(o) == r.content["protocol"].get(o) for o in options)
    ]
    tuned = [r for r in others if r.kind == "finetune" and r.is_untrained]
    found = {
        "the untrained network": [r for r in alike if r.is_untrained],
        "raw pixels": [r for r in alike if r.encoder == "pixels"],
    }
    found |= {
        f"the same network trained with labels, {r.content['protocol'].get('epochs')} epochs": [r] for r in tuned[:1]
    }
    return {name: results[0] for name, results in found.items() if results}


def sentence(own: Result, other: Result, name: str, problems: list[str]) -> str:
    more, low, high = difference(own, other, problems)
    none = f"no difference that these {own.data.get('test_images', 0):,} test images could show"
    words = "more" if low > 0 else "less" if high < 0 else none
    return f"Against {name}: {words} ({'+' if more > 0 else ''}{points(more)} points, {points(low, high)})."


def difference(own: Result, other: Result, problems: list[str]) -> tuple[float, float, float]:
    """How much higher the accuracy of `own` is, and the 95 % interval of that.

    With the answers of both, image by image, the interval is that of paired shares, with an image added to each of the two counts
    of those that only one of them told right (Bonett and Price 2012): else it is too narrow where they are few. Without the
    answers it is made of the two accuracies' intervals, as if the images were not the same (Newcombe 1998).
    """
    mine, theirs = (
        {(p.name, p.label): p.label == p.predicted for p in read_predictions(result, problems)}
        for result in (own, other)
    )
    if mine and mine.keys() == theirs.keys():
        only_mine = sum(right and not theirs[image] for image, right in mine.items())
        only_theirs = sum(right and not mine[image] for image, right in theirs.items())
        images, apart = len(mine) + 2, only_mine - only_theirs
        half = Z * math.sqrt(only_mine + only_theirs + 2 - apart**2 / images)
        return apart / len(mine), (apart - half) / images, (apart + half) / images
    assert own.accuracy is not None and other.accuracy is not None and own.interval and other.interval
    more = own.accuracy - other.accuracy
    down = math.hypot(own.accuracy - own.interval[0], other.interval[1] - other.accuracy)
    up = math.hypot(own.interval[1] - own.accuracy, other.accuracy - other.interval[0])
    return more, more - down, more + up


def points(*shares: float) -> str:
    return " to ".join(f"{round(100 * share, 1) + 0:.1f}" for share in shares).replace("-", "−")
