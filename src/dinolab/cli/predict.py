"""dinolab predict."""

import sys
from collections import Counter
from typing import Any

from dinolab.cli.grammar import Positional, Verb
from dinolab.errors import say

MOST_CLASSES = 20  # that the summary names; it counts the others


def predict_options() -> tuple[type, ...]:
    from dinolab.evals.predict import PredictOptions

    return (PredictOptions,)


def run_predict(layer: str, data: str, own: Any) -> int:
    from dinolab.data.sources import open_source
    from dinolab.evals.predict import run_predict as predict

    found = predict(layer, open_source(data, own, option="data"), own, progress=sys.stderr.isatty())
    say(f"layer: {found.layer}", f"encoder: {found.encoder}", "")
    counts = Counter(found.labels).most_common()
    width = len(f"{len(found.kept):,}")
    for name, count in counts[:MOST_CLASSES]:
        say(f"  {count:{width},}  {count / len(found.kept):6.1%}  {name}")
    if counts[MOST_CLASSES:]:
        images = sum(count for _, count in counts[MOST_CLASSES:])
        say(f"  {images:{width},}  {images / len(found.kept):6.1%}  in {len(counts) - MOST_CLASSES:,} other classes")
    cannot = len(found.images) - len(found.kept)
    say("", f"{len(found.kept):,} images" + (f", {cannot:,} more cannot be read" if cannot else ""))
    if own.out:
        say(f"{own.out}: a row for each image")
    return 0


PREDICT = Verb(
    "classify images by a layer that an evaluation has trained",
    run_predict,
    about="Predict the class of each image by a linear layer on an encoder's features, as `dinolab eval linear` and others "
    "save it. The CSV file has the columns filename, label, probability, and the probability of each class.",
    positionals=(
        Positional("RUN_OR_LAYER", "an evaluation's folder, its layer.safetensors, or a run with evaluations in eval/"),
        Positional(
            "DATA", "images: a folder, a CSV, shards or a dataset, as data.path takes them; labels are not used"
        ),
    ),
    options=predict_options,
    examples=("predict runs/photos new_photos", "predict runs/photos/eval/logreg new_photos out=classes.csv"),
)
