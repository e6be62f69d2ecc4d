"""The docs site: pages are staged and generated, and faults of a built site are found. `make docs` builds the whole."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scripts.docs.check import misread, problems
from scripts.docs.markdown import plain
from scripts.docs.reference import write_pages
from scripts.docs.stage import stage

from dinolab.cli.grammar import walk
from dinolab.cli.verbs import ROOT
from dinolab.evals import EVALS
from dinolab.evals.result import Measured, Result
from dinolab.fields import options
from dinolab.grid.findings import Findings, Found
from dinolab.methods import METHODS
from dinolab.recipes import schema, shipped
from dinolab.schemas import CARD, CURATION, ENVIRONMENT, INFO


def test_links_out_of_the_docs_are_taken_along(tmp_path: Path) -> None:
    repository, staged = tmp_path / "repository", tmp_path / "staged"
    (repository / "docs" / "results").mkdir(parents=True)
    (repository / "docs" / "a.md").write_text(
        "[b](results/b.md#c) [safe](../SAFE.md#d) [web](https://a.b/c.md) [no](../no.md)"
    )
    (repository / "docs" / "results" / "b.md").write_text("[run](../../run.sh) ![p](p.png)")
    (repository / "docs" / "results" / "p.png").write_bytes(b"p")
    (repository / "SAFE.md").write_text("[a](docs/a.md) [more](MORE.md)")
    for name in ("MORE.md", "run.sh", "CHANGES.md", "other.md"):
        (repository / name).write_text(name)
    stage(repository, staged, ["CHANGES.md"])
    assert {str(file.relative_to(staged)) for file in staged.rglob("*") if file.is_file()} == {
        "a.md", "results/b.md", "results/p.png", "project/SAFE.md", "project/MORE.md", "project/run.sh", "project/CHANGES.md",
    }  # fmt: skip
    assert (staged / "a.md").read_text() == (
        "[b](results/b.md#c) [safe](project/SAFE.md#d) [web](https://a.b/c.md) [no](../no.md)"
    )
    assert (staged / "results" / "b.md").read_text() == "[run](../project/run.sh) ![p](p.png)"
    assert (staged / "project" / "SAFE.md").read_text() == "[a](../a.md) [more](MORE.md)"


def test_everything_is_in_the_reference(tmp_path: Path) -> None:
    write_pages(tmp_path)
    pages = {file.stem: file.read_text() for file in tmp_path.iterdir()}
    for name in METHODS:
        assert f"\n## {name}\n" in pages["methods"]
        for key, f in options(schema(name)):
            page = pages["methods"] if f'id="{name}.{key}"' in pages["methods"] else pages["training"]
            assert f"`{key}` |" in page and plain(f.metadata["help"]) in page, key
    assert all(f"\n## {name}\n" in pages["evaluations"] for name in EVALS)
    assert all(f"\n## {name}\n" in pages["recipes"] for name in shipped())
    assert all(f" {place.name}\n" in pages["commands"] for place in walk(ROOT))
    for kind in (Result, Measured, Findings, Found):
        assert all(f"| `{f.name}` | " in pages["files"] for f in dataclasses.fields(kind))
    for part in (CARD, INFO, ENVIRONMENT, CURATION):
        assert all(f"| `{key}` | " in pages["files"] for key in part)
    assert all(f"`{key}`" in pages["files"] for m in METHODS.values() for panel in m.PANELS for key in panel.series)
    assert "optim.lr_scaling` | `none` | `linear` |" in pages["recipes"]


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<h2 id="x">X</h2><a href="b.html#y">y</a><a href="#x">x</a><img src="p%20q.png">', ""),
        ('<a href="b.html#z">z</a>', "index.html: b.html#z is not there"),
        ('<a href="b.html"></a><a href="c.html">c</a>', "index.html: c.html is not there"),
        ('<a href="b.html"></a><img src="c.png">', "index.html: c.png is not there"),
        ('<a href="b.html"></a><script src="//cdn.org/x.js">', "index.html: loads //cdn.org/x.js from another host"),
        ('<a href="b.html"></a><link href="https://fonts.org/x.css">', "loads https://fonts.org/x.css"),
        ('<a href="https://b.org/b.html">elsewhere</a>', "b.html: no page links to it"),
    ],
)
def test_faults_of_a_site_are_found(tmp_path: Path, page: str, fault: str) -> None:
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "b.html").write_text('<a id="y" href="/index.html">back</a>')
    (tmp_path / "p q.png").write_bytes(b"")
    found = problems(tmp_path)
    assert (len(found) == 1 and fault in found[0]) if fault else not found


def test_markdown_that_reads_otherwise_in_the_site_is_found(tmp_path: Path) -> None:
    source, built = tmp_path / "a.md", tmp_path / "a.html"
    source.write_text("# A\n\n- one\n\n      code of it\n\n- two\n  - three\n")
    built.write_text(
        "<li>menu</li><article><h1>A</h1><ul><li>one code of it</li><li>two</li><li>three</li></ul></article>"
    )
    assert misread(source, built) == [
        f"{source}: 2 x <ul> on a code host, 1 in the site",
        f"{source}: 1 x <pre> on a code host, 0 in the site",
    ]


def test_pictures_of_sheets_are_without_their_words() -> None:
    pictures = pytest.importorskip("scripts.docs.pictures")
    sheet = np.full((500, 60, 3), 255, np.uint8)
    for top, height in ((5, 12), (30, 150), (200, 160), (480, 10)):  # a title, two rows of pictures, a note
        sheet[top : top + height, 10:50] = 90
    assert [row.shape for row in pictures.rows(sheet)] == [(150, 60, 3), (160, 60, 3)]
