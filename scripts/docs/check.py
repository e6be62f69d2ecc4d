"""Checks of the built site: links lead somewhere, nothing is fetched from other hosts, pages read as they do on a code host."""

import posixpath
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt

LOADS = dict.fromkeys(("script", "img", "iframe", "source", "video", "audio"), "src") | {"link": "href"}
COUNTED = ("h1", "h2", "h3", "h4", "ul", "ol", "li", "pre", "table", "tr", "img")  # elements that Markdown makes


@dataclass
class Page:
    """What a built page holds."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)  # of a elements
    loads: list[str] = field(default_factory=list)  # what a browser fetches to show the page
    counts: Counter = field(default_factory=Counter)  # elements within the article


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page, self.in_article = Page(), False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.page.ids |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.page.links.append(given["href"])
        if LOADS.get(tag) in given and given.get("rel") != "canonical":
            self.page.loads.append(given[LOADS[tag]])
        self.in_article |= tag == "article"
        if self.in_article:
            self.page.counts[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self.in_article &= tag != "article"


def read_page(file: Path) -> Page:
    reader = Reader()
    reader.feed(file.read_text())
    return reader.page


def problems(site: Path, start: str = "index.html", apart: tuple[str, ...] = ("404.html",)) -> list[str]:
    """What is wrong with a built site, a line for each.

    Args:
        start: the page from which every other one must be reached.
        apart: pages that no other one links to.
    """
    pages = {file.relative_to(site).as_posix(): read_page(file) for file in sorted(site.rglob("*.html"))}
    found, reached, todo = [], {start}, [start]
    for name, page in pages.items():
        found += [f"{name}: loads {one} from another host" for one in page.loads if urlsplit(one).netloc]
        missing = [one for one in page.loads + page.links if is_missing(site, pages, name, one)]
        found += [f"{name}: {one} is not there" for one in missing]
    while todo:
        name = todo.pop()
        new = {target(name, link)[0] for link in pages[name].links if is_internal(link)} & pages.keys() - reached
        reached |= new
        todo += new
    return found + [
        f"{name}: no page links to it; add it to nav in zensical.toml"
        for name in sorted(pages.keys() - reached - set(apart))
    ]


def is_internal(address: str) -> bool:
    return not urlsplit(address).scheme and not urlsplit(address).netloc


def target(page: str, link: str) -> tuple[str, str]:
    """The file that a page's link leads to, relative to the site, and the place in it."""
    parts = urlsplit(link)
    path = unquote(parts.path)
    file = posixpath.normpath(posixpath.join("/", posixpath.dirname(page), path)).lstrip("/") if path else page
    return posixpath.join(file, "index.html") if path.endswith("/") else file, unquote(parts.fragment)


def is_missing(site: Path, pages: dict[str, Page], page: str, link: str) -> bool:
    """Whether a link within the site leads to no file, or to no place in the file."""
    if not is_internal(link):
        return False
    file, anchor = target(page, link)
    if file in pages:
        return bool(anchor) and anchor not in pages[file].ids
    return not (site / file).is_file()


def misread(source: Path, built: Path) -> list[str]:
    """Elements that a Markdown page has on a code host and not in the site, or the other way round.

    The builder's dialect of Markdown differs from the common one, for example in how far nested lists are indented.
    """
    reader = Reader()
    reader.feed(f"<article>{MarkdownIt().enable('table').render(source.read_text())}</article>")
    there, here = reader.page.counts, read_page(built).counts
    return [
        f"{source}: {there[tag]} x <{tag}> on a code host, {here[tag]} in the site"
        for tag in COUNTED
        if there[tag] != here[tag]
    ]
