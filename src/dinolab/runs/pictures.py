"""The pictures that a training leaves in its run's folder."""

from collections.abc import Callable

import torch

from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.sources import subset
from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.methods import METHODS
from dinolab.options import Config
from dinolab.panels import GRADIENT, KNN, SHARED, Panel
from dinolab.rundir import RunFolder
from dinolab.visuals.attention import attention_sheet
from dinolab.visuals.curves import plot_metrics
from dinolab.visuals.pca import pca_sheet
from dinolab.weights.load import load

IMAGES = 6  # shown in attention and PCA maps


def panels_of(cfg: Config) -> tuple[Panel, ...]:
    """The panels in which a run's figures are shown: its method's, and those of every run."""
    return (*METHODS[cfg.method].PANELS, KNN, GRADIENT, *SHARED)


def draw_pictures(folder: RunFolder, cfg: Config, source: Source) -> None:
    """Curves of the run, attention and PCA maps of a few images, into the run's folder."""
    plot_metrics(folder.path, folder.curves, panels_of(cfg))
    size = cfg.eval.size or cfg.views.global_size
    views: list[torch.Tensor] = []
    for path in subset(source, 4 * IMAGES, seed=0).paths:
        try:
            views.append(torch.as_tensor(eval_view(read_image(path), size)))
        except BrokenImage:
            continue
    if not views:
        return
    encoder = load(folder.path)
    sheets: list[tuple[Callable, str]] = [(pca_sheet, folder.pca.name)]
    if encoder.has_class_token:
        sheets.append((attention_sheet, folder.attention.name))
    for sheet, name in sheets:
        sheet(encoder, views[:IMAGES], folder.path / name)
