"""Pictures of what the network learned: neighbours, attention, PCA; and the link to a job's video."""

from collections.abc import Sequence
from typing import Any

from dinolab.errors import UserError, lacking, reason
from dinolab.report import explorer
from dinolab.report.network_pictures import network_pictures
from dinolab.report.pictures import Grid, length_and_size
from dinolab.report.sections.section import Page, View


def build(page: Page) -> dict[str, Any]:
    parts = []
    for view in page.views:
        grids, missing = grids_of(view)
        video = view.run.folder.video
        beside = page.photos and video.is_file() and page.folder.resolve() == view.run.path.resolve()
        parts.append({
            "label": view.label, "run": view.run, "grids": grids, "missing": missing,
            "explore": explorer.command(view.run.path, view.images.test) if linked(grids) and view.images else "",
            "video": video.name, "video_size": length_and_size(video) if beside else "",
        })  # fmt: skip
    return {"parts": parts}


def linked(grids: Sequence[Grid]) -> bool:
    """Whether a picture leads to the explorer."""
    return any(picture.link for grid in grids for row in grid.rows for picture in row)


def grids_of(view: View) -> tuple[list[Grid], str]:
    """The pictures, or why there are none."""
    if view.images is None or view.no_pictures:
        return [], view.no_pictures
    try:
        return network_pictures(view.run, view.images.reference, view.images.test), ""
    except Exception as error:
        if not lacking(error) and not isinstance(error, UserError | OSError):
            raise
        return [], reason(error)
