"""The page in a real browser that has no network; skipped where there is none."""

import base64
import itertools

import pytest

from dinolab.report import report
from tests.report.browser import Browser, find_browser

pytestmark = pytest.mark.skipif(not find_browser(), reason="no Chromium here")


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    return report([run], tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_loads_without_a_complaint_and_fits(browser, file, width, dark):
    browser.open(file, width, dark=dark)
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url[:99] for url in requests if not url.startswith("data:")] == [file.as_uri()]
    complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert [e for e in browser.events if e["method"] in complaints] == []
    loaded = browser.run("[...document.images].map((i) => i.complete && i.naturalWidth > 0)")
    assert len(loaded) > 40 and all(loaded)
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    light = browser.run(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0) > 380"
    )
    assert light != dark


def test_a_console_error_would_be_seen(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('x')</script><img src='https://example.com/a.png'><script>nowhere()</script>")
    browser.open(bad)
    methods = {e["method"] for e in browser.events}
    assert {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.requestWillBeSent"} <= methods


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
def test_tables_sort(browser, file, heading, clicks, expected):
    browser.open(file)
    assert browser.run(COLUMN.replace("HEADING", f'"{heading}"').replace("CLICKS", str(clicks))) == expected


def test_headings_can_be_reached_by_the_keyboard(browser, file):
    browser.open(file)
    assert browser.run("document.querySelectorAll('table.sorts th > button').length > 20")
    levels = browser.run("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_prints(browser, file):
    browser.open(file)
    pdf = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
