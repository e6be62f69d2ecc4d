"""A confusion matrix as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

NUMBERS = 30  # classes up to which each cell shows its share
NAMES = 100  # classes up to which rows and columns are named
CELL = 0.36  # inches, where there are names
LONGEST = 24  # characters of a name


def draw_confusion(counts: np.ndarray, classes: list[str], title: str, out: Path) -> None:
    """PNG of counts (C, C), true classes down, predicted across, as shares of each row. Cividis: read alike by all eyes."""
    number = len(classes)
    images = counts.sum(1, keepdims=True)
    shares = np.divide(counts, images, out=np.zeros(counts.shape), where=images > 0)
    side = max(4.0, CELL * number) if number <= NAMES else 9.0
    figure = Figure((side + 3, side + 2), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    drawn = axes.imshow(shares, cmap="cividis", vmin=0, vmax=max(shares.max(), 0.01), interpolation="nearest")
    axes.set_title(title, fontsize=12, loc="left", pad=10)
    axes.set(xlabel="predicted", ylabel="true")
    if number <= NAMES:
        short = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in classes]
        axes.set_xticks(range(number), short, rotation=90, fontsize=9, parse_math=False)
        axes.set_yticks(range(number), short, fontsize=9, parse_math=False)
    if number <= NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if round(100 * share):
                colour = "black" if share > 0.55 * shares.max() else "white"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, format=lambda share, _: f"{100 * share:.0f} %")
    bar.set_label("share of the true class's images")
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.savefig(out, dpi=150, bbox_inches="tight")
