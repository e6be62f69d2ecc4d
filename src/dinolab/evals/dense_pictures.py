"""Pictures of test images with their true and predicted maps beside each other."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from dinolab.plotting import new_figure, save
from dinolab.rundir import PICTURES

MOST = 6  # pictures
LISTED = 14  # classes in the legend
WIDTH = 3.6  # inches of each map
COLOUR_STEP = 0.618034  # of the hue from class to class: no two of them are alike
WHITE = np.array([1.0, 1.0, 1.0])


class Pictures:
    """Files for pictures of some of the test images, evenly spread over all of them."""

    def __init__(self, out: Path | None, images: int) -> None:
        """
        Args:
            out: the evaluation's folder; None draws nothing.
            images: number of test images.
        """
        self.out, self.number = out, 0
        self.drawn = {1 + n * images // min(MOST, images) for n in range(min(MOST, images))}

    def next(self) -> Path | None:
        """The file for the picture of the next test image; None where it gets none."""
        self.number += 1
        return self.out / PICTURES / f"{self.number:05d}.png" if self.out and self.number in self.drawn else None


def class_colours(number: int) -> np.ndarray:
    """A colour for each of a number of classes, float (number, 3) in [0, 1]: hues far apart, in three levels of brightness."""
    import colorsys

    levels = ((0.75, 0.85), (0.55, 1.0), (0.9, 0.5))  # saturation and brightness
    return np.array([colorsys.hsv_to_rgb(n * COLOUR_STEP % 1, *levels[n % len(levels)]) for n in range(number)])


def three_panels(image: Tensor, titles: tuple[str, str, str]) -> tuple[Figure, list[Axes]]:
    height = WIDTH * image.shape[1] / image.shape[2]
    figure = new_figure(3 * WIDTH, height + 0.9)
    panels = [*figure.subplots(1, 3)]
    panels[0].imshow(image.permute(1, 2, 0).numpy(), interpolation="antialiased")
    for axes, title in zip(panels, titles):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_axis_off()
    return figure, panels


def draw_classes(image: Tensor, truth: Tensor, predicted: Tensor, classes: list[str], out: Path) -> None:
    """Image, true and predicted classes; pixels that do not count are white in the truth.

    Args:
        image: uint8 (3, h, w).
        truth, predicted: (H, W).
    """
    colours = class_colours(len(classes))
    right = (predicted == truth)[truth >= 0].float().mean().item()
    figure, panels = three_panels(image, ("image", "truth", f"prediction, {right:.0%} of the pixels right"))
    for axes, labels in zip(panels[1:], (truth, predicted)):
        axes.imshow(np.concatenate([colours, WHITE[None]])[labels.numpy()], interpolation="antialiased")
    numbers, counts = torch.cat([truth[truth >= 0], predicted.flatten()]).unique(return_counts=True)
    most = numbers[counts.argsort(descending=True)][:LISTED].sort().values.tolist()
    handles = [Patch(color=tuple(colours[number]), label=classes[number]) for number in most]
    figure.legend(handles=handles, loc="outside lower left", ncols=7, frameon=False, fontsize=8)
    save(figure, out, dpi=100)


def draw_depths(image: Tensor, truth: Tensor, predicted: Tensor, far: float, out: Path) -> None:
    """Image, true and predicted depths with one scale of colours; pixels without a reading are white in the truth.

    Args:
        image: uint8 (3, h, w).
        truth, predicted: metres, (H, W).
        far: depths above it do not count.
    """
    valid = (truth > 0) & (truth <= far)
    figure, panels = three_panels(image, ("image", "truth", "prediction"))
    shown = truth[valid] if valid.any() else predicted
    low, high = np.quantile(shown.numpy(), [0.01, 0.99])
    for axes, depths in zip(panels[1:], (truth.masked_fill(~valid, float("nan")), predicted)):
        drawn = axes.imshow(depths.numpy(), cmap="viridis_r", vmin=low, vmax=high, interpolation="antialiased")
    bar = figure.colorbar(drawn, ax=panels, orientation="horizontal", fraction=0.05, pad=0.02, aspect=60)
    bar.set_label("metres", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    save(figure, out, dpi=100)
