"""The page of an audit: pictures of the worst findings of each kind, with links to the files."""

from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from dinolab.curation.findings import LISTED, Audit, Kind
from dinolab.data.locations import PLAIN, split
from dinolab.errors import one_line
from dinolab.report.page import environment, whole_page
from dinolab.report.pictures import Picture, photo

PAGE = "audit.html"
GLANCE = Kind("glance", "At a glance", "")


class Shown(NamedTuple):
    """An image of a finding."""

    name: str  # its folder and file
    whole: str  # its location in words
    link: str  # a file:// address; empty for images that are no files of their own
    picture: Picture | None  # None where it cannot be read


def audit_page(audit: Audit, most: int) -> str:
    """The page as one HTML file that needs no other file and no network.

    Args:
        most: findings of each kind that are shown.
    """
    templates = environment()
    facts = audit.store.manifest
    glance = {"audit": audit, "listed": LISTED, "encoder": facts["encoder"]}
    sections = [(GLANCE, Markup(templates.get_template("audit_glance.html").render(glance)))]
    for kind, found in audit.found.items():
        if found:
            cards = [
                (one, [show(audit, row, kind) for row in (one.row, one.other) if row >= 0]) for one in found[:most]
            ]
            html = templates.get_template("audit_kind.html").render(kind=kind, found=found, cards=cards)
            sections.append((kind, Markup(html)))
    about = f"{audit.images:,} images of {', '.join(one_line(name) for name in facts['sources'])}"
    return whole_page(templates, [f"Audit of {audit.store.folder.resolve().name}"], about, sections)


def show(audit: Audit, row: int, kind: Kind) -> Shown:
    location, whole = audit.store.rows["location"][row], one_line(audit.name(row))
    link = Path(location).as_uri() if split(location)[0] == PLAIN else ""
    return Shown("/".join(whole.split("/")[-2:]), whole, link, photo(location, f"{kind.title}: {whole}", ""))
