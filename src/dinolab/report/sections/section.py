"""One part of the page, and what every part is built from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.report.run import Run
from dinolab.runs.build import monitor_sources, open_data

NO_PHOTOS = "this page was written without photos"


class Images(NamedTuple):
    """The images of a run, where they are at hand."""

    train: Source
    reference: Source  # labelled images of k-NN while training; without k-NN, the train images
    test: Source


@dataclass
class View:
    """One run as the page shows it."""

    run: Run
    label: str  # its name, with a number where both runs have the same
    images: Images | None = None
    no_images: str = ""  # why there are no images
    no_pictures: str = ""  # why no image may be shown: there are none, or the page is written without photos


@dataclass
class Page:
    """One run, or two side by side, from which the sections are built."""

    views: list[View]
    folder: Path  # where the page will lie
    photos: bool = True

    @property
    def runs(self) -> list[Run]:
        return [view.run for view in self.views]


class Section(NamedTuple):
    """A part of the page.

    Its template is templates/sections/ID.html, and takes the names that `build` returns, "names" (the runs' labels) and "two".
    """

    id: str
    title: str  # empty: without a heading, and not among the links to sections
    build: Callable[[Page], dict[str, Any] | None]  # None leaves the section out


def open_page(runs: Sequence[Run], photos: bool, folder: Path) -> Page:
    return Page([open_view(run, label, photos) for run, label in zip(runs, labels(runs))], folder, photos)


def open_view(run: Run, label: str, photos: bool) -> View:
    view = View(run, label)
    try:
        view.images = open_images(run)
    except (UserError, OSError) as error:
        view.no_images = view.no_pictures = str(error)
    if view.images and not photos:
        view.no_pictures = NO_PHOTOS
    return view


def open_images(run: Run) -> Images:
    """Raises UserError where the images are not at hand."""
    if not run.config:
        raise UserError(f"{run.folder.config.name}, which names the images, is not there")
    try:
        source = open_data(
            run.config, run.folder.listing
        )  # the list of images that training has left, if it still holds
        reference, test = monitor_sources(run.config, source, lambda _: None) or (source, source)
    except (UserError, OSError) as error:
        raise UserError(f"the images are not at hand: {error}{elsewhere(run.config.data.path)}") from error
    return Images(source, reference, test)


def elsewhere(path: str) -> str:
    """What to do about images that are named relative to the folder in which the training was started; empty for others."""
    place = path.partition(":")[2] or path  # without the kind of source, such as clips:
    return (
        ""
        if not place or place.startswith(("/", "\\"))
        else "; run the command in the folder where the training was started"
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """The runs' names, numbered where they are the same."""
    names = [run.name for run in runs]
    return [f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1)]
