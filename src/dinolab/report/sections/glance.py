"""At a glance: the figures that a reader looks for first, whether the training helped, and warnings."""

from statistics import median
from typing import Any

from dinolab.panels import KNN
from dinolab.report.evaluated import ACCURACY, Evaluated, between, rank
from dinolab.report.names import about
from dinolab.report.run import Run
from dinolab.report.sections.section import Page
from dinolab.report.tables import percent
from dinolab.report.verdict import verdict
from dinolab.visuals.curves import points

Tile = tuple[str, str, str]  # what it is, the figure, a remark


def build(page: Page) -> dict[str, Any]:
    parts = [
        {"label": view.label, "run": view.run, "about": about(view.run), "tiles": tiles(view.run), "verdict": verdict(view.run)}
        for view in page.views
    ]  # fmt: skip
    return {"parts": parts}


def tiles(run: Run) -> list[Tile]:
    """The main figure of each evaluation of the run's network, in the order of EVALS, and what the training measured."""
    own = [evaluated for evaluated in run.results if run.is_own(evaluated)]
    found = [tile for one in sorted(own, key=lambda one: rank(one.result.evaluation)) for tile in main_tile(one)]
    (steps, knn), (_, loss), (_, speed) = (points(run.metrics, key) for key in (*KNN.series, "loss", "images_per_s"))
    if knn:
        best = f", best {percent(max(knn))} at step {steps[knn.index(max(knn))]:,}" if max(knn) > knn[-1] else ""
        found.append(("k-NN while training", percent(knn[-1]), f"from {percent(knn[0])}{best}"))
    if loss:
        found.append(("loss", f"{loss[-1]:.3f}", f"from {loss[0]:.3f}"))
    if speed:
        found.append(("training speed", f"{median(speed):,.0f}", "images/s, median"))
    return found


def main_tile(evaluated: Evaluated) -> list[Tile]:
    """One tile, or none where the evaluation has no figure. An accuracy needs no name; any other figure is named."""
    if evaluated.main is None:
        return []
    figure, main, images = evaluated.figure, evaluated.main, evaluated.result.data.get("test_images")
    what = evaluated.title if figure.title == ACCURACY else f"{evaluated.title}: {figure.title}"
    remarks = [
        between(main.interval, figure) if main.interval else "",
        f"{images} images" if images is not None else "",
        "" if figure.higher_is_better else "lower is better",
    ]
    return [(what, figure.text(main.value), ", ".join(filter(None, remarks)))]
