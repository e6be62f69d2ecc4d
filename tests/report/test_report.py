import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals import EVALS
from dinolab.report import explorer, report
from dinolab.report.sections import SECTIONS, curves
from dinolab.report.sections.section import Section
from tests.pictures import make_folder


class Page(HTMLParser):
    """What a page refers to, its pictures and its headings."""

    def __init__(self, file: Path):
        super().__init__()
        self.html = file.read_text(encoding="utf-8")
        self.references: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self._heading = False
        self.feed(self.html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.references += [
            value for key, value in attrs if key in ("src", "href", "srcset", "poster", "action", "data")
        ]
        if tag == "img":
            self.pictures.append(found)
        self._heading = tag in ("h1", "h2", "h3", "h4")

    def handle_data(self, data):
        if data.strip():
            self.words.append(data.strip())
            if self._heading:
                self.headings.append(data.strip())
        self._heading = False

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(report([run]))


def copy(run: Path, to: Path, *without: str) -> Path:
    shutil.copytree(run, to, ignore=shutil.ignore_patterns(*without))
    return to


def test_no_section_of_a_good_run_is_left_out(page):
    """A fault in a section's own code would otherwise look like a damaged file."""
    assert "is left out: a file holds other content" not in page.text


def test_all_parts_are_there(page):
    parts = [
        "Evaluations", "Confusion matrix", "Best and worst classes", "Published figures", "What it learned",
        "Nearest neighbours", "Attention over training", "Attention, head by head", "PCA over training", "Curves",
        "Loss and accuracy", "Health", "Speed", "Schedules", "Data", "A sample", "Configuration", "Speed and memory",
        "Environment", "Commands to repeat it",
    ]  # fmt: skip
    assert [h for h in page.headings if h in parts] == parts  # results first, configuration below
    others = page.html.split("<h3>Published figures</h3>")[1].split("</section>")[0]
    assert others.count("<details>") > 5 and "with rows from this folder" in others  # folded, the user's own on top
    assert 'class="missing"' not in page.html


EXPLORER = "http://127.0.0.1:8651/#name="


def outside(page: Page) -> list[str]:
    """What the page refers to beside itself and the explorer."""
    return [reference for reference in page.references if not reference.startswith(("data:", "#", EXPLORER))]


def test_nothing_is_fetched_from_the_network(page):
    assert page.references
    assert outside(page) == []
    assert all(picture["src"].startswith("data:") for picture in page.pictures)
    assert "@import" not in page.html and "url(" not in page.html


def test_the_video_beside_the_page_is_its_one_link(run, tmp_path):
    """It fetches nothing until it is followed: the content security policy stays as it is."""
    small = tmp_path / "small"
    small.mkdir()
    shutil.copy(run / "metrics.jsonl", small)
    (small / "video.mp4").write_bytes(b"video" * 100_000)

    beside = Page(report([small]))
    assert outside(beside) == ["video.mp4"] and "0.5 MB" in beside.text
    assert "content=\"default-src 'none'; img-src data:;" in beside.html and "<video" not in beside.html
    assert outside(Page(report([small], tmp_path / "elsewhere.html"))) == []
    assert outside(Page(report([small], photos=False))) == []


def test_queries_lead_to_the_explorer(run, page):
    links = [reference.removeprefix(EXPLORER) for reference in page.references if reference.startswith(EXPLORER)]
    assert len(links) == 20 and len(set(links)) == 5  # as a query, in attention, by heads and in PCA
    assert all(Path(unquote(link)).is_file() for link in links)
    test = run.parent / "test"
    assert all(unquote(link).startswith(f"{test}/") for link in links)
    assert f"dinolab explore {run} data={test}" in page.words


def test_names_in_links_are_quoted_and_other_machines_are_not_linked():
    assert explorer.link("/a/x & y#1+2%.png") == f"{EXPLORER}/a/x%20%26%20y%231%2B2%25.png"
    assert explorer.link("shards\0/a/x.tar\x00512+9\0cat/1.jpg") == f"{EXPLORER}/a/x.tar%3A%20cat/1.jpg"
    assert explorer.link(b"/a/caf\xe9.png".decode(errors="surrogateescape")) == f"{EXPLORER}/a/caf%E9.png"
    assert explorer.link("shards\0s3://bucket/x.tar\x00512+9\0cat/1.jpg") == ""
    columns = Source("my images.csv", ["/a/1.png"], None, [], read_by={"label_column": "kind"})
    assert explorer.command(Path("runs/a b"), columns) == (
        "dinolab explore 'runs/a b' 'data=my images.csv' label_column=kind"
    )


def test_every_picture_is_within_and_described(page):
    assert len(page.pictures) > 40
    assert all(p["src"].startswith("data:image/") and p["alt"] for p in page.pictures)
    assert len(page.html) < 3e6


def test_figures_are_those_of_the_files(run, page):
    for name in ("knn", "logreg"):
        result = json.loads((run / "eval" / name / "result.json").read_text())
        low, high = result["figures"]["accuracy"]["interval"]
        assert f"{100 * result['figures']['accuracy']['value']:.1f}%" in page.words
        assert f"{100 * low:.1f} to {100 * high:.1f}" in page.words
    assert f"{json.loads((run / 'environment.json').read_text())['names_crc32']:08x}" in page.words
    assert "step 4" in page.words and "step 8" in page.words and "step 12" in page.words


def test_alarms_and_leaks_are_shown(run, tmp_path):
    changed = copy(run, tmp_path / "changed", "checkpoints")
    with (changed / "log.txt").open("a") as log:
        log.write("2026-01-01 10:00:00 ALARM at step 8: collapse: all images go to one prototype <b>\n")
    file = changed / "eval" / "knn" / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"leaks": [["a", "b"]]}))
    shown = Page(report([changed]))
    assert "2026-01-01 10:00:00 ALARM at step 8: collapse: all images go to one prototype <b>" in shown.words
    assert f"{EVALS['knn'].title}: 1 test images are byte-identical to train images" in shown.words


def test_broken_files_are_named_and_the_rest_is_shown(run, tmp_path, caplog):
    broken = copy(run, tmp_path / "broken")
    lines = (broken / "metrics.jsonl").read_text().splitlines()
    (broken / "metrics.jsonl").write_text("\n".join([*lines[:2], '{"loss": 1.', *lines[2:]]))
    (broken / "eval" / "knn" / "result.json").write_text("{")
    (broken / "speed" / "attention.json").write_text("[1, 2")
    next((broken / "checkpoints" / "step_00000004").glob("*.distcp")).write_bytes(b"")
    (broken / "eval" / "logreg" / "predictions.csv").write_text("filename,label\n1.png,a\n")
    shown = Page(report([broken]))
    for words in (
        "metrics.jsonl, line 3: left out",
        "knn/result.json: left out: ",
        "speed/attention.json: left out: ",
        "step_00000004: this checkpoint cannot be read",
        "logreg/predictions.csv: left out",
    ):
        assert words in shown.text
        assert any(words in record.getMessage() for record in caplog.records)
    assert "Loss and accuracy" in shown.headings and "Evaluations" in shown.headings
    assert "step 8" in shown.words and "step 4" not in shown.words


@pytest.mark.parametrize("kept", ["config.yaml", "metrics.jsonl", "model.json", "eval", "speed"])
def test_any_piece_alone_is_enough(run, tmp_path, kept):
    alone = tmp_path / "alone"
    alone.mkdir()
    (shutil.copytree if (run / kept).is_dir() else shutil.copy)(run / kept, alone / kept)
    shown = Page(report([alone]))
    assert 'class="missing"' in shown.html
    assert (f"No evaluation in this folder yet: dinolab eval {next(iter(EVALS))}" in shown.text) == (kept != "eval")
    assert ("dinolab bench attention out=" in shown.text) == (kept != "speed")


def test_images_that_are_gone_are_a_quiet_line(run, tmp_path):
    moved = copy(run, tmp_path / "moved", "checkpoints", "sources.json.gz")
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace(str(run.parent / "images"), "/nowhere"))
    file = moved / "eval" / "logreg" / "result.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps(result | {"data": result["data"] | {"test": "/nowhere"}}))
    (moved / "eval" / "knn" / "result.json").unlink()
    shown = Page(report([moved]))
    assert "No sample: the images are not at hand: data.path=/nowhere" in shown.text
    assert "No pictures of what it learned: the images are not at hand: data.path=/nowhere" in shown.text
    assert "No examples of the classes: the test images are not at hand" in shown.text
    assert "Confusion matrix" in shown.headings


def test_images_that_are_named_from_another_folder_say_where_to_go(run, tmp_path, monkeypatch):
    moved = copy(run, tmp_path / "moved", "checkpoints", "sources.json.gz", "eval")
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace(str(run.parent / "images"), "images"))
    config.write_text(config.read_text().replace(str(run.parent / "test"), "test"))
    monkeypatch.chdir(tmp_path)
    assert "run the command in the folder where the training was started" in Page(report([moved])).text
    monkeypatch.chdir(run.parent)
    assert "A sample" in Page(report([moved])).headings


def test_two_runs_side_by_side(run, tmp_path):
    other = copy(run, tmp_path / "mine", "checkpoints", "speed")  # the same name
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("  lr: 0.004\n", "  lr: 0.001\n"))
    file = report([run, other])
    shown = Page(file)
    assert file == run / "report_with_mine.html"
    assert "mine (1) and mine (2)" in shown.headings
    row = shown.html.split("<code>optim.lr</code>")
    assert row[0].endswith('<tr class="differs"><td>') and ">0.001</td>" in row[1].split("</tr>")[0]
    assert shown.html.split("<code>model.dim</code>")[0].endswith("<tr><td>")
    assert "marked where the runs differ: 1" in shown.text
    assert "<details open" not in shown.html.split('<section id="configuration">')[1].split("</section>")[0]
    assert "loss: DINO" in shown.words and "loss: KoLeo" in shown.words


def test_without_photos_only_figures_are_left(run, tmp_path, page):
    out = Page(report([run], tmp_path / "to_hand_on.html", photos=False))
    assert out.pictures == [] and "127.0.0.1" not in out.html and "dinolab explore" not in out.html
    for heading in (
        "A sample",
        "Best and worst classes",
        "Nearest neighbours",
        "Attention over training",
        "PCA over training",
    ):
        assert heading in page.headings and heading not in out.headings
    for heading in ("Data", "Loss and accuracy", "Evaluations", "Confusion matrix"):
        assert heading in out.headings
    assert out.text.count("written without photos") == 3


def test_names_are_text_and_never_markup(tmp_path):
    images = make_folder(tmp_path / "images", classes=2)
    (images / "class0").rename(images / "<script>alert(1)<!--")
    (images / "class1").rename(images / b"caf\xe9".decode(errors="surrogateescape"))
    folder = tmp_path / "a & <b>"
    folder.mkdir()
    (folder / "config.yaml").write_text(f"data:\n  path: {images}\n")
    shown = Page(report([folder]))
    assert shown.headings[0] == "a & <b>"
    assert "<script>alert" not in shown.html and "&lt;script&gt;alert" in shown.html


def test_what_is_no_run_is_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for runs, words in (
        ([tmp_path / "nowhere"], "no such folder"),
        ([tmp_path / "empty"], "not a run's folder"),
        ([run, run, run], "one run or two, not 3"),
    ):
        with pytest.raises(UserError, match=words):
            report(runs)


def test_only_reports_are_written_over(run, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    shutil.copy(run / "metrics.jsonl", small)
    theirs = tmp_path / "theirs.html"
    theirs.write_text("<p>my notes</p>")
    with pytest.raises(UserError, match="is no report"):
        report([small], theirs)
    assert theirs.read_text() == "<p>my notes</p>"
    with pytest.raises(UserError, match="there is no folder"):
        report([small], tmp_path / "nowhere" / "a.html")
    ours = report([small], tmp_path / "ours.html")
    assert report([small], ours) == ours


def test_command_line(run, tmp_path, capsys):
    from dinolab.cli import main

    small = tmp_path / "small"
    small.mkdir()
    shutil.copy(run / "metrics.jsonl", small)
    assert main(["report", str(small)]) == 0
    assert capsys.readouterr().out == f"{small / 'report.html'}\n"
    assert main(["report", str(small), f"out={tmp_path / 'a.pdf'}"]) == 2
    assert "must end in .html" in capsys.readouterr().err


def test_runs_of_the_version_before_are_shown_with_their_evaluations(earlier, tmp_path, monkeypatch):
    monkeypatch.chdir(earlier)
    run = Path("dinov2")
    shown = Page(report([run], tmp_path / "page.html"))
    for name in ("knn", "logreg", "linear", "linear-dino", "finetune"):
        result = json.loads((run / "eval" / name / "result.json").read_text())
        assert EVALS[name].title in shown.words
        assert f"{100 * result['accuracy']:.1f}%" in shown.words
        assert f"dinolab eval {name} dinov2" in shown.text
    comparison = json.loads((run / "eval" / "all" / "all.json").read_text())
    found = comparison["encoders"][1]["results"]["knn"]
    low, high = found["interval"]
    assert f"{100 * found['accuracy']:.1f} ({100 * low:.1f}-{100 * high:.1f})" in shown.words
    for heading in ("Side by side", "Confusion matrix", "Best and worst classes", "Nearest neighbours", "Curves"):
        assert heading in shown.headings


def test_a_section_is_one_entry(run, tmp_path, monkeypatch):
    """Two more: one that has something to show, and one that has not. Both use the template of the curves."""
    small = tmp_path / "small"
    small.mkdir()
    shutil.copy(run / "metrics.jsonl", small)
    found = {"curves": curves.build, "nothing": lambda page: None}
    monkeypatch.setattr("dinolab.report.page.SECTIONS", [Section("curves", "Mine", found["curves"]), *SECTIONS[:1]])
    assert "Mine" in Page(report([small])).headings
    monkeypatch.setattr("dinolab.report.page.SECTIONS", [Section("curves", "Mine", found["nothing"]), *SECTIONS[:1]])
    assert "Mine" not in Page(report([small])).headings
