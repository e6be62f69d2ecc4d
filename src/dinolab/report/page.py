"""The facts of one run or two, put into the page's template."""

import shlex
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.confusion import NUMBERS
from dinolab.models.backbone import make_backbone
from dinolab.options import Config
from dinolab.report import images
from dinolab.report.charts import Chart
from dinolab.report.curves import attention_charts, curves, labels
from dinolab.report.facts import Json, Result, Run
from dinolab.report.learned import learned
from dinolab.report.names import about
from dinolab.report.pictures import Grid, Picture, data_uri, length_and_size
from dinolab.report.published import published
from dinolab.report.settings import as_word, commands, install, settings
from dinolab.report.tables import Cell, Table, benchmark, comparison, evaluations, percent, side_by_side
from dinolab.report.verdict import verdict
from dinolab.visuals.curves import points

NO_PHOTOS = "this page was asked for without photos"
VIDEO = "video.mp4"  # what `dinolab recipe` calls it; too large to be put into the page
ORDER = ("linear", "knn", "logreg", "linear-dino", "finetune")  # of the tiles
GENERATOR = "dinolab report"  # in the page's head: a file with it may be written over


@dataclass
class View:
    """One run as the template shows it."""

    run: Run
    label: str
    about: str = ""  # method, network, data
    tiles: list[tuple[str, str, str]] = field(default_factory=list)  # what, figure, remark
    verdict: str = ""  # whether the training helped
    trained_on: dict[str, str] = field(default_factory=dict)
    classes: Table | None = None
    sample: Grid | None = None
    best: Result | None = None  # the evaluation that confusions and classes are of
    matrix: images.Matrix | None = None
    confusion: Picture | None = None  # where the matrix would be too large for a table
    by_class: Table | None = None
    class_grids: list[Grid] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    video: str = ""  # length and size, where the page can link to it
    missing: dict[str, str] = field(default_factory=dict)  # section: why it has no pictures


def render(runs: list[Run], photos: bool, folder: Path) -> str:
    """The whole page, as HTML, for a file in `folder`; without `photos`, nothing that shows an image of the data."""
    views = [view(run, label, photos) for run, label in zip(runs, labels(runs))]
    for v in views:
        if photos and (folder / VIDEO).is_file() and folder.resolve() == v.run.folder.resolve():
            v.video = length_and_size(folder / VIDEO)
    leave_out_twins(views)
    results = [(v.label, v.run, result) for v in views for result in v.run.results]
    context: dict[str, Any] = {
        "generator": GENERATOR,
        "video": VIDEO,
        "version": version("dinolab"),
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "views": views,
        "trained_on": side_by_side([v.trained_on for v in views]),
        "curves": curves(runs),
        "settings": settings([run.config for run in runs]),
        "evaluations": evaluations(results) if results else None,
        "comparisons": [[made for c in run.comparisons if (made := comparison(c.content, run))] for run in runs],
        "published": published(runs),
        "speed": [[(benchmark(b), lines_of(b)) for b in run.benchmarks] for run in runs],
        "environment": side_by_side([environment(run) for run in runs]),
        "commands": [commands(run) for run in runs],
        "installs": [install(run.environment) for run in runs],
    }
    page = Environment(
        loader=PackageLoader("dinolab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters["breakable"] = breakable
    page.filters["quote"] = lambda path: shlex.quote(str(path))
    return page.get_template("page.html").render(context)


def breakable(text: str) -> Markup:
    """A line may end after an underscore, and so not within a word."""
    return escape(text).replace("_", Markup("_<wbr>"))


def leave_out_twins(views: list[View]) -> None:
    """The second run's sample, where it shows what the first one's does."""
    facts = [[v.run.environment.get(key) for key in ("data", "images", "names_crc32")] for v in views]
    if len(views) == 2 and facts[0] == facts[1] and views[0].sample and all(facts[0]):
        views[1].sample = views[1].classes = None
        views[1].missing["data"] = f"they are those of {views[0].label}"


def lines_of(benchmarked: Json) -> list[Chart]:
    return attention_charts(benchmarked["rows"]) if benchmarked.get("benchmark") == "attention" else []


def view(run: Run, label: str, photos: bool) -> View:
    shown = View(run, label)
    source = pictures_of_data(shown, photos)
    shown.trained_on = trained_on(run, source)
    own = [result for result in run.results if run.is_own(result) and result.accuracy is not None]
    shown.best = max(own, key=lambda result: result.accuracy or 0, default=None)
    if shown.best:
        answers(shown, shown.best, photos)
    shown.tiles = tiles(run, sorted(own, key=lambda result: [*ORDER, result.kind].index(result.kind)))
    shown.about, shown.verdict = about(run), verdict(run)
    return shown


def pictures_of_data(shown: View, photos: bool) -> Source | None:
    """The sample, the classes and what was learned of them, as far as the images are at hand; they are returned."""
    run, source = shown.run, None
    if not run.config:
        shown.missing["data"] = shown.missing["learned"] = "config.yaml, which names the images, is not there"
        return None
    try:
        source, votes, asked = images.open_images(run.config, run.folder)
        counts = images.class_counts(source)
        if counts:
            shown.classes = Table("Classes", "", ["class", "images"], [[Cell(n), Cell(f"{c:,}", c)] for n, c in counts])
        if not photos:
            shown.missing["data"] = shown.missing["learned"] = NO_PHOTOS
            return source
        shown.sample = images.sample(source)
    except (UserError, OSError) as error:
        shown.missing["data"] = shown.missing["learned"] = f"the images are not at hand: {error}"
        return None
    try:
        shown.grids = learned(run, votes, asked)
    except (UserError, OSError, torch.OutOfMemoryError) as error:
        shown.missing["learned"] = str(error)
    return source


def answers(shown: View, result: Result, photos: bool) -> None:
    """Who was taken for whom, and the best and the worst classes."""
    predictions = images.read_predictions(result, shown.run.problems)
    if predictions and len({p.label for p in predictions}) <= NUMBERS:
        shown.matrix = images.confusion(predictions)
    elif drawn := images.confusion_picture(result):
        shown.confusion = Picture(data_uri(drawn.read_bytes(), "image/png"), "Confusion matrix", "")
    order = sorted(result.per_class.items(), key=lambda item: -item[1]["accuracy"])
    rows = [
        [Cell(name), Cell(percent(found["accuracy"]), found["accuracy"], found["accuracy"]), Cell(f"{found['images']:,}", found["images"])]
        for name, found in order
    ]  # fmt: skip
    shown.by_class = Table("By class", "", ["class", "accuracy", "test images"], rows) if rows else None
    if not photos:
        shown.missing["classes"] = NO_PHOTOS
        return
    try:
        shown.class_grids = images.class_examples(result, predictions)
    except (UserError, OSError) as error:
        shown.missing["classes"] = f"the test images are not at hand: {error}"


def tiles(run: Run, own: list[Result]) -> list[tuple[str, str, str]]:
    """The few figures that a reader looks for first."""
    found = []
    for result in own:
        between = "{:.1f} to {:.1f}, ".format(*(100 * end for end in result.interval)) if result.interval else ""
        found.append(
            (result.words, percent(result.accuracy or 0), f"{between}{result.data.get('test_images', '?')} images")
        )
    (_, knn), (_, loss), (_, speed) = (points(run.metrics, key) for key in ("knn", "loss", "images_per_s"))
    if knn:
        found.append(("k-NN while training", percent(knn[-1]), f"from {percent(knn[0])}"))
    if loss:
        found.append(("loss", f"{loss[-1]:.3f}", f"from {loss[0]:.3f}"))
    if speed:
        found.append(("training speed", f"{median(speed):,.0f}", "images/s, median"))
    return found


def trained_on(run: Run, source: Source | None) -> dict[str, str]:
    """Counts, where from, and hashes."""
    facts, info, cfg = {}, run.card.get("info", {}), run.config
    if cfg:
        facts["method"] = cfg.method
        facts["network"] = network(cfg)
    if run.step is not None:
        steps = f"{run.step:,}" + (f" of {cfg.optim.batch_size:,} images" if cfg else "")
        epochs = points(run.metrics, "epoch")[1]
        facts["steps"] = steps + (f", {epochs[-1]:.4g} epochs" if epochs else "")
    number = run.environment.get("images", info.get("images"))
    if number is not None:
        facts["training images"] = f"{number:,}"
    if source is not None and source.classes:
        facts["classes (not used by the training)"] = f"{len(source.classes):,}"
    facts["images from"] = str(run.environment.get("data", cfg.data.path if cfg else ""))
    if "names_crc32" in run.environment:
        facts["checksum of their names (CRC-32)"] = f"{run.environment['names_crc32']:08x}"
    facts |= split_of(run.split)
    if cfg and cfg.eval.train:
        facts["k-NN while training"] = f"votes: {cfg.eval.train}; asked: {cfg.eval.test}"
    facts |= {f"{name} (SHA-256)": digest for name, digest in run.hashes.items()}
    return {key: value for key, value in facts.items() if value}


def split_of(split: Json) -> dict[str, str]:
    """What `dinolab recipe` divided, and how; nothing of a file that is not its."""
    try:
        most, test = split["images_of_a_class"], split["test"]
        at_most = "; of each class at most {train:,} to learn from, {test:,} to be asked of"
        return {
            "split (data/split.json)": split["split"] + ("" if most == "all" else at_most.format(**most)),
            "test images": f"{test['images']:,}",
            "their checksum (names and labels, BLAKE2b)": str(test["fingerprint"]),
            "unlabelled images": f"{split['unlabelled_images']:,}",
            "downloaded data": str(split["data"]),
            "it differs from the known set": "; ".join(split["differences"]) or "in nothing that was looked at",
        }
    except (LookupError, TypeError, ValueError):
        return {}


def network(cfg: Config) -> str:
    with torch.device("meta"):
        return make_backbone(cfg.model, cfg.views.global_size).describe()


def environment(run: Run) -> dict[str, str]:
    facts = {k: v for k, v in run.environment.items() if k not in ("packages", "images", "names_crc32", "data", "time")}
    facts |= {"training began": run.environment.get("time")}
    facts |= run.environment.get("packages") or {}
    return {key: as_word(value) for key, value in facts.items() if value is not None}


def confirm(out: Path) -> None:
    """Raises UserError if `out` is a file that is no report: it is not ours to write over."""
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir() or (out.exists() and GENERATOR.encode() not in out.read_bytes()[:1000]):
        raise UserError(f"--out {out}: exists already and is no report; name another file, or remove it")
