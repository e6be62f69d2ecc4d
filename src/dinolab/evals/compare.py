"""Several encoders by several evaluations on the same images: `dinolab eval all`, or `dinolab.compare`.

Each result is written as soon as it is found, and one that an earlier call found, with the same weights, images and settings, is
kept; so a failure or a stop costs nothing but itself.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from dinolab.config import keyword_options
from dinolab.data.types import Source
from dinolab.errors import OUT_OF_MEMORY, UserError, lacking, reason
from dinolab.evals import EVALS, splits
from dinolab.evals.comparison import Comparison, Entry, Row, main_facts, read_comparison
from dinolab.evals.comparison_table import markdown
from dinolab.evals.contenders import UNTRAINED, labels, names, untrained
from dinolab.evals.contract import SUITES, Evaluation, EvaluationOptions, Given
from dinolab.evals.evaluate import find, make_folder, run_evaluation
from dinolab.evals.labelled_images import LabelledImages, named_and_opened, open_train_and_test, sources_in_words
from dinolab.evals.plots import Published, draw_figures, draw_scaling
from dinolab.evals.result import Json
from dinolab.evals.throughput import throughput
from dinolab.features import cache as kept_features
from dinolab.features.inputs import Encodes, extraction_arguments, open_device, open_encoder, python_options
from dinolab.fields import option
from dinolab.files import file_name, write_whole
from dinolab.progress import NOTEBOOK
from dinolab.rundir import COMPARISON, RESULT

log = logging.getLogger(__name__)
FORMAT = "results 3"  # to be raised when the same settings give other results
REPEATED = (
    "dinolab.features.extract",
    "dinolab.features.stored",
    "dinolab.evals.scores",
    "dinolab.evals.splits",
)  # loggers of warnings about images


@dataclass
class CompareOptions(LabelledImages.Options):
    """Options of `dinolab eval all`."""

    train: str = option("", "labelled training images, as data.path takes them, where no suite is named")
    suite: str = option("", "in place of train: the evaluations of a paper, or all", choices=("", *SUITES, "all"))
    root: str = option("", "folder in which a suite looks for its data sets")
    against: list[str] = option(
        [], "other encoders; also pixels, the raw pixels, and untrained, the run's architecture with initial weights"
    )
    evaluations: list[str] = option([], "evaluations to run (empty: the usual ones)")


@contextmanager
def warn_once() -> Iterator[None]:
    """Inside the block, warnings about the images, which every evaluation repeats, are logged once."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return message not in seen and not seen.add(message)  # type: ignore[func-returns-value]

    loggers = [logging.getLogger(name) for name in REPEATED]
    for logger in loggers:
        logger.addFilter(is_new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_new)


def compare(
    encoder: Encodes,
    against: Sequence[Encodes],
    train: str | Path | Source | None = None,
    test: str | Path | Source | None = None,
    out: str | Path | None = None,
    *,
    progress: bool = NOTEBOOK,
    environment: Json | None = None,
    **options: Any,
) -> Comparison:
    """Evaluate encoders side by side, and measure the images/s of their forward passes.

    Args:
        encoder: what `dinolab.load` takes, or "pixels", or a network, which is named by its class.
        against: others; also "untrained", the architecture of `encoder` with initial weights.
        train: labelled images, see `evaluate`. With `suite` and `root` among the options, leave out `train` and `test`.
        test: labelled images; without them a part of `train` is held out.
        out: folder for all.json, table.md, accuracy.png and scaling.png, and for what `evaluate` writes, in
            ENCODER/EVALUATION; None writes nothing.
        options: evaluations, a list of names, and what all evaluations share: size, precision, device, workers, cache, seed, seeds;
            see `dinolab eval all --help`. By default all encoders are moved to where `encoder` is.

    Raises:
        UserError: images or labels are missing, an option is wrong, or not one encoder could be evaluated.
    """
    named, given = named_and_opened(train=train, test=test)
    values = python_options(encoder, {**named, "out": out, **options})
    chosen = keyword_options(CompareOptions, values, see="dinolab eval all --help")
    return run_comparison(encoder, chosen, progress, environment, against, given)


@warn_once()
def run_comparison(
    encoder: Encodes,
    options: CompareOptions,
    progress: bool = False,
    environment: Json | None = None,
    against: Sequence[Encodes] | None = None,
    given: Given | None = None,
    published: Published | None = None,
) -> Comparison:
    """`compare` with its options read.

    Args:
        against: takes the place of `options.against`.
        given: opened sources, by "train" and "test", in place of those that the options name.
        published: a function from a figure to published points, which the scaling figure shows in grey.
    """
    others = options.against if against is None else against
    encoders = list(dict.fromkeys(one if isinstance(one, nn.Module) else str(one) for one in (encoder, *others)))
    if options.suite or options.root:
        from dinolab.evals.suite import prepare_suite  # here: it builds on this file

        open_device(options.device, encoder)
        return prepare_suite(options, progress, environment, published).over(encoders)
    if not options.train and "train" not in (given or {}):
        raise UserError("train is not set: name labelled images, or suite=all and root=DIR with data sets")
    chosen = options.evaluations or [name for name, evaluation in EVALS.items() if evaluation.compared]
    evaluations = {name: find(name) for name in chosen}
    open_device(options.device, encoder)  # a wrong device is no failure of a single encoder
    sources = open_train_and_test(options, given or {})
    if len(sources) > 2:
        raise UserError(
            f"test={','.join(options.test)}: encoders are compared on one set of test images; name one at a time"
        )
    if sources[-1].labels is None:
        raise UserError(f"{sources[-1].name} has no labels, and without them there are no figures to compare")
    for seed in range(options.seed, options.seed + options.seeds):
        if len(sources) == 1 and splits.beside(sources[0], seed):
            splits.held_out(sources[0], seed, None, progress)  # what is wrong with it is no failure of a single encoder
    out = Path(options.out) if options.out else None
    if out:
        make_folder(out)
    settings = {
        "evaluations": chosen, "precision": options.precision, "seed": options.seed, "seeds": options.seeds
    }  # fmt: skip
    data = sources_in_words(sources[0], sources[1] if sources[1:] else None)
    found = Comparison(data, settings, environment)
    title = f"Evaluations on {Path(sources[-1].name).name}"
    return Run(evaluations, options, sources, out, earlier_entries(out), found, progress, title, published).over(
        encoders
    )


@dataclass
class Run:
    """A comparison in progress."""

    evaluations: dict[str, Evaluation]  # by the names of their columns
    options: CompareOptions
    sources: list[Source]
    out: Path | None
    earlier: dict[str, Entry]  # by key
    found: Comparison
    progress: bool
    title: str
    published: Published | None

    def over(self, encoders: Sequence[Encodes]) -> Comparison:
        """Evaluate every encoder, the first of which is the user's own."""
        named = names(encoders)
        for one, name, label in zip(encoders, named, labels(named)):
            self.add(one, encoders[0], name, label)
        self.finish()
        return self.found

    def announce(self, row: Row) -> None:
        """Called for each encoder before its evaluations, when its images/s are known."""

    def add(self, one: Encodes, first: Encodes, name: str, label: str) -> None:
        """Evaluate one encoder; `first` is the one whose architecture "untrained" takes."""
        row = Row(label, name)
        self.found.encoders.append(row)
        try:
            network = open_encoder(untrained(first, self.options.seed) if one == UNTRAINED else one)[1]
            how = extraction_arguments(network, self.options, self.progress)
            row.size, row.dim = list(how["size"]), getattr(network, "dim", None)
            row.parameters = sum(p.numel() for p in network.parameters())
            row.throughput = throughput(network, how["size"], how["device"], how["precision"])
        except (UserError, RuntimeError, MemoryError) as error:
            row.failure = failure(error)
            log.warning("%s: %s", name, row.failure)
            self.save()
            return
        self.announce(row)
        for which in sorted(self.evaluations, key=lambda which: not self.evaluations[which].runs_first):
            row.results[which] = self.entry(which, network, row)
            self.save()

    def entry(self, which: str, network: nn.Module, row: Row) -> Entry:
        """One evaluation of one encoder: what an earlier call found, or the evaluation done now."""
        options, evaluation = self.options, self.evaluations[which]
        key = fingerprint(network, self.sources, (which, row.size, options.precision, options.seed, options.seeds))
        if key in self.earlier:
            return self.earlier[key]
        folder = self.out / file_name(row.name) / which if self.out else None
        given = {key: [source] for key, source in zip(("train", "test"), self.sources)}
        try:
            own = options_of(evaluation, options, folder)
            result = run_evaluation(
                which, network, own, self.progress, self.found.environment, called=row.name, given=given
            )
        except (UserError, RuntimeError, MemoryError) as error:
            log.warning("%s, %s: %s", row.name, which, failure(error))
            return Entry(failure=failure(error))
        return Entry(main_facts(result), folder=str(folder) if folder else None, key=key)

    def save(self) -> None:
        """Write all.json as far as it is."""
        if self.out:
            content = json.dumps(self.found.to_json(), indent=2, default=str) + "\n"
            write_whole(self.out / COMPARISON, content.encode(errors="surrogateescape"))

    def finish(self) -> None:
        """Write table and plots. Raises UserError where not one encoder could be evaluated."""
        rows = self.found.encoders
        if not any(entry.result and entry.result.main for row in rows for entry in row.results.values()):
            found = [
                text for row in rows for text in (row.failure, *(each.failure for each in row.results.values())) if text
            ]
            alike = len(set(found)) == 1  # then the encoders need no names
            raise UserError(found[0] if alike else "; ".join(failure for row in rows for failure in row.failures))
        if self.out:
            write_whole(self.out / "table.md", markdown(self.found).encode(errors="surrogateescape"))
            draw_figures(rows, self.evaluations, self.title, self.out / "accuracy.png")
            draw_scaling(rows, self.evaluations, self.title, self.out / "scaling.png", self.published)


def failure(error: Exception) -> str:
    """Why an encoder could not be evaluated; an error that is neither a user's mistake nor a lack of memory is raised again."""
    if isinstance(error, UserError) or lacking(error) == OUT_OF_MEMORY:
        return reason(error)
    raise error


def options_of(evaluation: Evaluation, options: CompareOptions, folder: Path | None) -> EvaluationOptions:
    """The evaluation's options, as far as the comparison has them; the others have their defaults."""
    shared = {f.name: getattr(options, f.name) for f in fields(evaluation.Options) if hasattr(options, f.name)}
    return evaluation.Options(**shared | {"out": str(folder) if folder else ""})


def fingerprint(encoder: nn.Module, sources: list[Source], settings: tuple[Any, ...]) -> str:
    """Hash of everything that a result depends on: weights, images, labels, and settings."""
    of_labels = [zlib.crc32(source.labels.tobytes()) for source in sources if source.labels is not None]
    classes = [source.classes for source in sources]
    text = repr((FORMAT, settings, of_labels, classes))
    keys = [kept_features.key(encoder, source, text) for source in sources]
    return hashlib.blake2b("".join(keys).encode(), digest_size=20).hexdigest()


def earlier_entries(out: Path | None) -> dict[str, Entry]:
    """Results of an earlier call by key, where their files still exist."""
    if not out or not (out / COMPARISON).is_file():
        return {}
    try:
        rows = read_comparison(out / COMPARISON).encoders
    except UserError:  # whatever it is, it is written again
        return {}
    entries = [entry for row in rows for entry in row.results.values() if entry.key and entry.folder]
    return {entry.key: entry for entry in entries if (Path(str(entry.folder)) / RESULT).is_file()}
