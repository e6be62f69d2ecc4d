"""`dinolab.predict`: images in, classes out, by the linear layer that an evaluation has trained.

M images that can be read, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dinolab.config import keyword_options, parse_size
from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals import EVALS
from dinolab.evals.heads import Trained
from dinolab.evals.layer import LinearLayer, load_layer
from dinolab.evals.results import write_csv
from dinolab.features.cache import checksum
from dinolab.features.inputs import Encodes, Extraction, extraction_arguments, open_encoder, python_options
from dinolab.features.options import PRECISIONS, FeatureOptions
from dinolab.fields import option
from dinolab.options import Columns
from dinolab.progress import NOTEBOOK
from dinolab.rundir import LAYER, NETWORK, PREDICTIONS, RunFolder

AS_TRAINED = "layer"  # the precision that the layer was trained with
COLUMNS = ["filename", "label", "probability"]  # of the CSV file, before those of the classes


@dataclass
class PredictOptions(Columns, FeatureOptions):
    """Options of `dinolab predict`."""

    out: str = option(
        PREDICTIONS, "CSV file to write; an earlier one is replaced (empty: none, as calls from Python have it)"
    )
    encoder: str = option("", "encoder with the weights that the layer was trained on (empty: the one that it names)")
    size: str = option(
        "", "side of the images in pixels, or height and width as 224x336 (empty: the layer's)", check=parse_size
    )
    precision: str = option(
        AS_TRAINED,
        f"number type of the encoder's matrix products; {AS_TRAINED}: the one that the layer was trained with",
        choices=(AS_TRAINED, *PRECISIONS),
    )


@dataclass(frozen=True)
class Predicted:
    """Classes of images, as a linear layer predicts them."""

    layer: Path  # the file of the layer
    encoder: str  # the name of the encoder
    images: list[str]  # names of all images, in the order of the source
    kept: np.ndarray  # int64 (M,), positions in `images` of those that could be read
    classes: list[str]
    probabilities: np.ndarray  # float32 (M, C)

    @property
    def labels(self) -> list[str]:
        """The most likely class of each image that could be read, (M,)."""
        return [self.classes[c] for c in self.probabilities.argmax(1)]

    @property
    def unreadable(self) -> list[str]:
        """Names of the images that could not be read."""
        kept = set(self.kept.tolist())
        return [name for i, name in enumerate(self.images) if i not in kept]

    def rows(self) -> Iterator[Sequence[str]]:
        """The rows of the CSV file, one for each image; those of images that could not be read are empty behind the name."""
        by_position = dict(zip(self.kept.tolist(), zip(self.labels, self.probabilities)))
        for i, name in enumerate(self.images):
            if i in by_position:
                label, shares = by_position[i]
                yield [name, label, *(f"{share:.6f}" for share in (shares.max(), *shares))]
            else:
                yield [name, *[""] * (2 + len(self.classes))]

    def write(self, file: Path) -> None:
        """A CSV file with the columns filename, label, probability, and the probability of each class under its name."""
        write_csv(file, [*COLUMNS, *self.classes], self.rows())


def predict(
    layer: str | Path,
    data: str | Path | Source,
    out: str | Path | None = None,
    encoder: Encodes | None = None,
    *,
    progress: bool = NOTEBOOK,
    **options: Any,
) -> Predicted:
    """Predict the class of each image by the linear layer that an evaluation has trained. Labels of the images are not used.

    Args:
        layer: the folder of an evaluation that trains a linear layer, the layer.safetensors in it, or the folder of a run with such
            evaluations in its folder `eval`.
        data: images, as `data.path` takes them, or an opened source.
        out: a CSV file to write as well.
        encoder: a network, or what `dinolab.load` takes; by default the one that the layer names, or the run that the layer's file
            lies in. Its weights must be those that the layer was trained on.
        progress: show progress bars; by default in a notebook only.
        options: columns, size, precision, device, workers and cache, see `dinolab predict --help`. By default the encoder stays where it is
            (one that is named is loaded on the CPU), and no processes are started.

    Raises:
        UserError: there is no layer, its encoder cannot be opened or has other weights, nothing can be read, or an option is wrong.
    """
    values = python_options(encoder or "", {"out": out or "", **options})
    chosen = keyword_options(PredictOptions, values, see="dinolab predict --help")
    source = data if isinstance(data, Source) else open_source(str(data), chosen, option="data")
    return run_predict(layer, source, chosen, encoder, progress)


def run_predict(
    place: str | Path, source: Source, options: PredictOptions, encoder: Encodes | None = None, progress: bool = False
) -> Predicted:
    """`predict` with its options read; `encoder` takes the place of `options.encoder`."""
    out = Path(options.out) if options.out else None
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"out={out}: name a file to write, in a folder that exists")
    file = find_layer(place)
    layer = load_layer(file)
    name, network = open_fitting(layer, file, encoder or options.encoder)
    features = replace(
        options,
        size=options.size or "{}x{}".format(*layer.size),
        precision=layer.precision if options.precision == AS_TRAINED else options.precision,
    )
    how = Extraction(**extraction_arguments(network, features, progress))
    taken = layer.taken
    found = how.extract(network, source, taken.blocks, taken.tokens != "cls")
    width = taken.rows(found, found.kept[:0]).shape[1]
    if width != layer.linear.in_features:
        raise UserError(f"{file}: takes {layer.linear.in_features} features of an image, and {name} gives {width}")
    probabilities = Trained(layer.linear.to(how.device), taken).probabilities(found)
    predicted = Predicted(file, name, source.names(), found.kept.numpy(), layer.classes, probabilities.numpy())
    if out:
        predicted.write(out)
    return predicted


def find_layer(place: str | Path) -> Path:
    """The file of a trained layer: the path itself, the one in that folder, or the first that a run's evaluations have saved.

    Raises UserError where there is none.
    """
    place = Path(place)
    folders = [place, *(RunFolder(place).evaluations / name for name in EVALS)]
    files = [file for folder in folders if (file := folder / LAYER).is_file()]
    if place.is_dir() and not files:
        name = next(iter(EVALS))
        raise UserError(
            f"{place}: no {LAYER} there; `dinolab eval {name} RUN train=DIR` writes one into RUN/eval/{name}"
        )
    return files[0] if files else place


def open_fitting(layer: LinearLayer, file: Path, encoder: Encodes) -> tuple[str, Any]:
    """The name and the network of the encoder that a layer was trained on.

    Args:
        encoder: what the user has named; if empty, the encoder that the layer names is tried, and then the run around its file, which
            may have been moved since.

    Raises:
        UserError: it cannot be opened, or has other weights.
    """
    places = [file.absolute().parent / NETWORK, *file.absolute().parents]
    around = [folder for folder in places if RunFolder(folder).weights.is_file()]
    names = [encoder] if encoder else [*dict.fromkeys(map(str, [layer.encoder.get("name", ""), *around[:1]]))]
    problems = []
    for one in names:
        try:
            name, network = open_encoder(one)
        except UserError as error:
            problems.append(str(error))
            continue
        if checksum(network.state_dict(), {}) == layer.encoder.get("weights_crc32"):
            return name, network
        problems.append(f"{name} has other weights than those that the layer was trained on")
    way_out = "name it by encoder=" if not encoder else "name another one, or train the layer again on this one"
    raise UserError(f"{file}: its encoder is not found: {'; '.join(problems)}; {way_out}")
