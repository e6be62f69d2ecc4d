"""The page in a real browser that has no network; skipped where there is none."""

import itertools

import pytest

from dinolab.report import report
from tests.browsing import new_page


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    return report([run], tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def opened(browser):
    """Opens files; the result is that of `new_page`."""
    pages = []

    def open_file(file, width=1280, dark=False):
        pages.append(new_page(browser, width, dark))
        pages[-1].page.goto(file.as_uri())
        return pages[-1]

    yield open_file
    for seen in pages:
        seen.page.close()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_loads_without_a_complaint_and_fits(opened, file, width, dark):
    page, complaints, requests = opened(file, width, dark)
    loaded = page.evaluate("[...document.images].map((i) => i.complete && i.naturalWidth > 0)")
    assert len(loaded) > 40 and all(loaded)
    assert [url[:99] for url in requests if not url.startswith("data:")] == [file.as_uri()]
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    light = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0) > 380"
    )
    assert light != dark


def test_a_console_error_would_be_seen(opened, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('x')</script><img src='https://example.com/a.png'><script>nowhere()</script>")
    _, complaints, requests = opened(bad)
    assert "x" in complaints and any("nowhere" in one for one in complaints)
    assert "https://example.com/a.png" in requests and any("ERR_NAME_NOT_RESOLVED" in one for one in complaints)


COLUMN = """(() => {
  const table = [...document.querySelectorAll("#speed table.sorts")].find((t) => t.textContent.includes("sdpa"));
  const at = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent === HEADING);
  for (let n = 0; n < CLICKS; n++) table.tHead.rows[0].cells[at].querySelector("button").click();
  return [table.tHead.rows[0].cells[at].ariaSort, ...[...table.tBodies[0].rows].map((r) => r.cells[at].textContent)];
})()"""


@pytest.mark.parametrize(
    ("heading", "clicks", "expected"),
    [
        ("images/s", 1, ["descending", "500.0", "500.0", "50.0", "50.0", ""]),  # as numbers, not as text
        ("images/s", 2, ["ascending", "50.0", "50.0", "500.0", "500.0", ""]),  # without a figure: below either way
        ("attention", 1, ["ascending", "math", "math", "math", "sdpa", "sdpa"]),
        ("attention", 2, ["descending", "sdpa", "sdpa", "math", "math", "math"]),
    ],
)
def test_tables_sort(opened, file, heading, clicks, expected):
    page = opened(file).page
    assert page.evaluate(COLUMN.replace("HEADING", f'"{heading}"').replace("CLICKS", str(clicks))) == expected


def test_headings_can_be_reached_by_the_keyboard(opened, file):
    page = opened(file).page
    assert page.evaluate("document.querySelectorAll('table.sorts th > button').length > 20")
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_prints(opened, file):
    pdf = opened(file).page.pdf(print_background=True)
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
