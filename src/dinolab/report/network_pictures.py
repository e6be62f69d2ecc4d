"""Pictures of what the network learned: nearest neighbours, and attention and PCA over the course of training."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.sources import subset
from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.models.encoder import Encoder, evaluating
from dinolab.parallel import choose_device
from dinolab.report import explorer
from dinolab.report.pictures import Grid, Picture, from_cells, picture
from dinolab.report.run import Run
from dinolab.rundir import RunFolder, checkpoints, step_of
from dinolab.visuals.attention import attention_maps, overlay, rows_of
from dinolab.visuals.images import patch_features, spread
from dinolab.visuals.neighbours import cell, neighbours
from dinolab.visuals.pca import fit, paint
from dinolab.visuals.sheet import Cell, crop_to_patches, enlarge, stretch
from dinolab.weights.load import load

IMAGES = 5  # rows of a grid
NEAR = 0.1  # of the run: checkpoints that close to its end are not shown
EARLIER = 4  # checkpoints shown before the final network
AMONG = {"cuda": 5000, "mps": 1000, "cpu": 300}  # images that neighbours are looked for in
NEAREST = 6
MASS = 0.6  # of attention, inside the line


class Shown(NamedTuple):
    """An image that the grids have a row for."""

    pixels: np.ndarray  # uint8 (H, W, 3)
    view: Tensor  # uint8 (3, S, S), what the network sees
    path: str
    label: str


def network_pictures(run: Run, reference: Source, test: Source) -> list[Grid]:
    """Nearest reference images of some test images, and attention and PCA of the same test images.

    Raises:
        UserError: the network or all of the images cannot be read.
    """
    assert run.config
    size = run.config.eval.size or run.config.views.global_size
    final = load(run.path, choose_device("auto"))
    images = readable(test, size)
    if not images:
        raise UserError(f"{test.name}: none of its images can be read")
    networks = over_training(run, final)
    grids = [neighbours_grid(final, images, reference, size)]
    if final.has_class_token:
        grids += [attention_grid(networks, images), heads_grid(final, images)]
    return [*grids, pca_grid(networks, images)]


def readable(source: Source, size: int) -> list[Shown]:
    """A few images of the source that can be read, drawn at random; the same at every call."""
    found: list[Shown] = []
    chosen = subset(source, 4 * IMAGES, seed=0)
    for n, path in enumerate(chosen.paths):
        try:
            pixels = read_image(path)
        except BrokenImage:
            continue
        view = torch.from_numpy(eval_view(pixels, size))
        found.append(Shown(pixels, view, path, name_of(chosen, n)))
    return spread(found, IMAGES)


def name_of(source: Source, position: int) -> str:
    return "" if source.labels is None else source.classes[source.labels[position]]


def over_training(run: Run, final: Encoder) -> list[tuple[str, Encoder]]:
    """A job's untrained network, the networks of some kept checkpoints, and the final one, each with its title.

    A network that cannot be read is left out, with a sentence in the run's problems.
    """
    places = {step_of(place): place for place in checkpoints(run.folder.checkpoints)}
    untrained = run.folder.untrained
    chosen = {"untrained": untrained} if RunFolder(untrained).card.is_file() else {}
    chosen |= {f"step {step:,}": places[step] for step in evenly(list(places), run.step)}
    networks = []
    for name, place in chosen.items():
        try:
            networks.append((name, load(place, next(final.parameters()).device)))
        except UserError as error:
            run.problems.append(f"left out: {error}")
    return [*networks, ("final" if run.step is None else f"step {run.step:,}", final)]


def evenly(steps: Sequence[int], final: int | None) -> list[int]:
    """Some of the steps, evenly spaced as far as possible, and none so near to the final step that it would look the same."""
    last = final or max(steps, default=0)
    earlier = [step for step in steps if step <= (1 - NEAR) * last]
    wanted = [last * n / (EARLIER + 1) for n in range(1, EARLIER + 1)]
    return sorted({min(earlier, key=lambda step: abs(step - place)) for place in wanted}) if earlier else []


def neighbours_grid(encoder: Encoder, images: Sequence[Shown], reference: Source, size: int) -> Grid:
    among = subset(reference, AMONG[next(encoder.parameters()).device.type], seed=0)
    found = neighbours(encoder, [image.pixels for image in images], among, NEAREST + 1, size)
    rows = []
    for image, near in zip(images, found):
        query = picture(enlarge(image.view), f"query {image.label}".strip(), image.label or "query")
        row = [query._replace(link=explorer.link(image.path))]
        for n in [n for n in near if among.paths[n.position] != image.path][:NEAREST]:
            drawn, label = cell(among, n, size), name_of(among, n.position)
            mark = ("right" if label == image.label else "wrong") if label and image.label else ""
            row.append(picture(drawn.picture, f"neighbour, {drawn.title}", drawn.title, mark))
        rows.append(row)
    note = f"Each row begins with a query; then its nearest of {len(among):,} images, by cosine similarity of the class token."
    return Grid("Nearest neighbours", note, rows)


def attention_grid(networks: Sequence[tuple[str, Encoder]], images: Sequence[Shown]) -> Grid:
    rows = []
    for image in images:
        view = crop_to_patches(image.view, networks[-1][1].patch_size)
        cells = [Cell(enlarge(view), image.label or "image")]
        for name, encoder in networks:
            with evaluating(encoder):
                attention = attention_maps(encoder, view[None])[0].float().cpu().mean(0)
            cells.append(Cell(overlay(enlarge(view), attention, MASS), name))
        rows.append(row_of(image, cells, "attention"))
    note = f"The class token's attention in the last block, mean of the heads; lines enclose {100 * MASS:.0f}% of it."
    return over_time("Attention", note, rows, networks)


def heads_grid(encoder: Encoder, images: Sequence[Shown]) -> Grid:
    rows: list[list[Picture]] = []
    for n, image in enumerate(images):
        view = crop_to_patches(image.view, encoder.patch_size)
        with evaluating(encoder):
            maps = attention_maps(encoder, view[None])[0].float().cpu()
        first, *more = rows_of(enlarge(view), maps, MASS, None, None, n)
        rows.append(row_of(image, first, "attention"))
        rows += [from_cells(cells, f"attention {image.label}".strip()) for cells in more]
    return Grid("Attention, head by head", "Of the final network. Each map has its own scale of colours.", rows)


def pca_grid(networks: Sequence[tuple[str, Encoder]], images: Sequence[Shown]) -> Grid:
    """A column for each network, and one for the components of the foreground in the final network."""
    views = [crop_to_patches(image.view, networks[-1][1].patch_size) for image in images]
    columns: list[list[Cell]] = [[Cell(enlarge(v), i.label or "image") for v, i in zip(views, images)]]
    for name, encoder in networks:
        with evaluating(encoder):
            patches = [patch_features(encoder, view) for view in views]
        pca = fit(patches)
        maps = [paint(features, pca) for features in patches]
        columns.append([draw(m.rgb, view, name) for m, view in zip(maps, views)])
    columns.append([draw(m.foreground_rgb, view, "foreground") for m, view in zip(maps, views)])
    note = (
        "First three principal components of the patch features as red, green and blue. All images of a step share one basis, so "
        "colours can be compared down a column, not across. The last column has the components of the foreground's patches alone."
    )
    rows = [row_of(image, cells, "PCA") for image, cells in zip(images, zip(*columns))]
    return over_time("PCA", note, rows, networks)


def row_of(image: Shown, cells: Sequence[Cell | None], what: str) -> list[Picture]:
    """The image itself, which leads to the explorer, and what the networks make of it."""
    first, *others = from_cells(cells, f"{what} {image.label}".strip())
    return [first._replace(link=explorer.link(image.path)), *others]


def over_time(what: str, note: str, rows: list[list[Picture]], networks: Sequence[tuple[str, Encoder]]) -> Grid:
    if len(networks) > 1:
        return Grid(f"{what} over training", note, rows)
    return Grid(
        what, f"{note} Only the final network is shown: set run.keep or run.keep_every to keep more checkpoints.", rows
    )


def draw(rgb: Tensor, view: Tensor, title: str) -> Cell:
    like: Any = enlarge(view).shape[:2]
    return Cell(stretch(rgb, like, "nearest"), title)
