"""The page: its sections, rendered one by one and put into one HTML file."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dinolab.errors import UserError, mask
from dinolab.report.names import about
from dinolab.report.run import Run
from dinolab.report.sections import SECTIONS
from dinolab.report.sections.section import open_page

GENERATOR = "dinolab report"  # stands in the page's head: a file that has it may be written over


def render(runs: Sequence[Run], photos: bool, folder: Path) -> str:
    """The whole page as HTML.

    Args:
        runs: one, or two side by side.
        photos: show images of the data.
        folder: where the page will lie: files there can be linked to.
    """
    page = open_page(runs, photos, folder)
    built = [
        (section, section.build(page)) for section in SECTIONS
    ]  # all of them first: they may find problems to be shown
    templates, names = environment(), [view.label for view in page.views]
    common = {"names": names, "two": len(names) > 1}
    sections = [
        (section, Markup(templates.get_template(f"sections/{section.id}.html").render(common | found)))
        for section, found in built
        if found is not None
    ]
    return templates.get_template("page.html").render(
        common,
        generator=GENERATOR,
        version=version("dinolab"),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        about=about(runs[0]) if len(runs) == 1 else "",
        sections=sections,
    )


def environment() -> Environment:
    """Jinja's environment: all values are text unless they are marked as HTML."""
    templates = Environment(
        loader=PackageLoader("dinolab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["breakable"] = breakable
    templates.filters["quote"] = lambda path: shlex.quote(str(path))
    return templates


def breakable(text: str) -> Markup:
    """The text, in which a line may end after an underscore."""
    return escape(mask(text)).replace("_", Markup("_<wbr>"))


def confirm(out: Path) -> None:
    """Refuse to write over a file that is no report.

    Raises:
        UserError: there is such a file, or no folder for `out`.
    """
    if not out.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {out.parent}")
    if out.is_dir() or (out.exists() and GENERATOR.encode() not in out.read_bytes()[:1000]):
        raise UserError(f"out={out}: exists already and is no report; name another file, or remove it")
