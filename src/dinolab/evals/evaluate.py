"""`dinolab.evaluate`: an encoder and images in; figures and files out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinolab.config import keyword_options
from dinolab.data.types import Source
from dinolab.errors import UserError, nearest
from dinolab.evals import EVALS
from dinolab.evals.contract import Context, Data, Evaluation, EvaluationOptions, Given
from dinolab.evals.labelled_images import named_and_opened
from dinolab.evals.result import Json, Result
from dinolab.evals.results import write_result
from dinolab.evals.state import STATES
from dinolab.features.inputs import Encodes, extraction_arguments, open_encoder, python_options
from dinolab.progress import NOTEBOOK

Images = str | Path | Source  # what users name images by


def evaluate(
    name: str,
    encoder: Encodes,
    train: Images | Sequence[Images] | None = None,
    test: Images | Sequence[Images] | None = None,
    out: str | Path | None = None,
    *,
    progress: bool = NOTEBOOK,
    environment: Json | None = None,
    called: str | None = None,
    **options: Any,
) -> Result:
    """Measure how good an encoder is.

    Args:
        name: an evaluation: "knn", "logreg", ...; `dinolab eval --help` lists them.
        encoder: what `dinolab.load` takes, or "pixels", or a network.
        train: images, as `data.path` takes them, or an opened source. Evaluations of labelled images hold out a fifth of each
            class of `train` without `test`, near-duplicates together; that split is kept beside the data, for the next time. For
            evaluations of pixels it is a pair of folders, [images, maps].
        test: the same. A test set without labels gets predictions and no figures. `test` may be a list of several sets: the first
            one gives the Result, and each other one a Result in its list `tests`.
        out: folder for result.json and the evaluation's other files; None writes nothing.
        progress: show progress bars; by default in a notebook only.
        environment: facts about machine and versions, for result.json.
        called: what results call the encoder; by default what it was named.
        options: the evaluation's options, see `dinolab eval NAME --help`; None stands for the default. By default the encoder stays
            where it is (one that is named is loaded on the CPU), and no processes are started.

    Raises:
        UserError: an unknown evaluation or option, a value out of range, images or labels that are missing.
    """
    named, given = named_and_opened(train=train, test=test)
    values = python_options(encoder, {**named, "out": out, **options})
    chosen = keyword_options(find(name).Options, values, see=f"dinolab eval {name} --help")
    return run_evaluation(name, encoder, chosen, progress, environment, called, given)


def run_evaluation(
    name: str,
    encoder: Encodes,
    options: EvaluationOptions,
    progress: bool = False,
    environment: Json | None = None,
    called: str | None = None,
    given: Given | None = None,
) -> Result:
    """`evaluate` with its options read.

    Args:
        options: an instance of the evaluation's Options.
        given: opened sources in place of those that the options name.
    """
    return prepare(name, encoder, options, progress, environment, called, given).run()


@dataclass(frozen=True)
class Prepared:
    """An evaluation whose encoder and data are open."""

    evaluation: Evaluation
    network: Any
    data: Data
    options: EvaluationOptions
    context: Context

    def run(self) -> Result:
        """Evaluate, and write the result where the options name a folder."""
        context = self.context
        if context.out:  # before any work, so that a folder that cannot be made costs nothing
            make_folder(context.out)
        result = self.evaluation.run(self.network, self.data, self.options, context)
        if context.out:
            write_result(context.out, result)
            for state in context.out.glob(STATES):
                state.unlink()
        return result


def prepare(
    name: str,
    encoder: Encodes,
    options: EvaluationOptions,
    progress: bool = False,
    environment: Json | None = None,
    called: str | None = None,
    given: Given | None = None,
) -> Prepared:
    """The first half of `run_evaluation`: everything is opened, and nothing is computed or written."""
    evaluation = find(name)
    known_as, network = open_encoder(encoder)
    evaluation.check(network, options)
    facts = {fact: getattr(network, fact, None) for fact in ("dim", "patch_size", "info")}
    context = Context(
        **extraction_arguments(network, options, progress),
        evaluation=name,
        encoder={"name": called or known_as, **facts},
        out=Path(options.out) if options.out else None,
        seed=options.seed,
        environment=environment,
    )
    return Prepared(evaluation, network, evaluation.needs.open(options, given or {}, context), options, context)


def find(name: str) -> Evaluation:
    """The evaluation of this name. Raises UserError where there is none."""
    if name not in EVALS:
        near = nearest(name, EVALS)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(EVALS)}"
        raise UserError(f"there is no evaluation {name}; {hint}")
    return EVALS[name]


def make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"out={out}: is a file; name a folder") from error
    except OSError as error:
        raise UserError(f"out={out}: cannot be made ({error.strerror}); name another folder") from error
