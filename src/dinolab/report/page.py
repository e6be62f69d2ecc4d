"""The page: its sections, rendered one by one and put into one HTML file."""

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dinolab.errors import UserError, mask, reason
from dinolab.report.names import about
from dinolab.report.run import Run
from dinolab.report.sections import SECTIONS
from dinolab.report.sections.section import Page, Section, open_page

log = logging.getLogger(__name__)
GENERATOR = "dinolab report"  # stands in the page's head: a file that has it may be written over


def render(runs: Sequence[Run], photos: bool, folder: Path) -> str:
    """The whole page as HTML.

    Args:
        runs: one, or two side by side.
        photos: show images of the data.
        folder: where the page will lie: files there can be linked to.
    """
    page = open_page(runs, photos, folder)
    # all of them first: they may find problems to be shown
    built = [(section, build(section, page)) for section in SECTIONS]
    templates, names = environment(), [view.label for view in page.views]
    common = {"names": names, "two": len(names) > 1}
    sections = []
    for section, found in built:
        if found is not None:
            with left_out_if_damaged(section, page):
                html = templates.get_template(f"sections/{section.id}.html").render(common | found)
                sections.append((section, Markup(html)))
    return whole_page(templates, names, about(runs[0]) if len(runs) == 1 else "", sections)


def whole_page(templates: Environment, names: Sequence[str], about: str, sections: Sequence[tuple[Any, Markup]]) -> str:
    """The page of sections that are rendered.

    Args:
        names: what it is about.
        about: a line below that; may be empty.
        sections: each with something that has the section's `id` and `title`.
    """
    return templates.get_template("page.html").render(
        names=names,
        about=about,
        generator=GENERATOR,
        version=version("dinolab"),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        sections=sections,
    )


def build(section: Section, page: Page) -> dict[str, Any] | None:
    """What the section's template takes; None leaves the section out."""
    with left_out_if_damaged(section, page):
        return section.build(page)
    return None


@contextmanager
def left_out_if_damaged(section: Section, page: Page) -> Iterator[None]:
    """Turn what a file with other content than dinolab writes leads to into a sentence among the problems."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        log.debug("%s", section.id, exc_info=True)
        fault = (
            f"the section {section.title or section.id!r} is left out: a file holds other content than dinolab writes"
        )
        for view in page.views:
            view.run.problems.append(f"{fault} ({type(error).__name__}: {reason(error)})")


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
