"""The verbs of the command line, in the order of `dinolab --help`."""

from dinolab.cli.bench import BENCH
from dinolab.cli.completion import COMPLETION
from dinolab.cli.curate import CURATE
from dinolab.cli.data import DATA
from dinolab.cli.evaluate import EMBED, EVAL
from dinolab.cli.explore import EXPLORE
from dinolab.cli.export import EXPORT
from dinolab.cli.grammar import Family, Verb
from dinolab.cli.grid import GRID
from dinolab.cli.job import JOB
from dinolab.cli.predict import PREDICT
from dinolab.cli.report import REPORT
from dinolab.cli.show import SHOW
from dinolab.cli.train import DEMO, PLAN, TRAIN

VERBS: dict[str, Verb | Family] = {
    "demo": DEMO,
    "train": TRAIN,
    "plan": PLAN,
    "grid": GRID,
    "eval": EVAL,
    "predict": PREDICT,
    "embed": EMBED,
    "show": SHOW,
    "explore": EXPLORE,
    "report": REPORT,
    "export": EXPORT,
    "data": DATA,
    "curate": CURATE,
    "bench": BENCH,
    "job": JOB,
    "completion": COMPLETION,
}

ROOT = Family(
    "self-supervised vision on your own images",
    lambda: VERBS,
    "verb",
    about="Self-supervised vision on your own images: train DINO, DINOv2 and others, evaluate, look, export.",
    examples=(
        "demo",
        "train dinov2_vits16 data.path=photos run.dir=runs/photos",
        "eval knn runs/photos train=labelled k=20",
    ),
)
