"""`dinolab.evaluate` and `dinolab.embed`: an encoder and images in; figures and files, or features, out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dinolab.data.sources import open_source, stratified_split
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.cache import FOLDER
from dinolab.evals.features import PRECISIONS, TOKENS, FeatureSet, extract
from dinolab.evals.knn import TEMPERATURE, match_classes, most_likely, vote_for_each
from dinolab.evals.linear import BLOCKS, linear
from dinolab.evals.logreg import logreg
from dinolab.evals.pixels import PixelEncoder
from dinolab.evals.results import find_leaks, names, score, warn_of_leaks, write
from dinolab.models.weights import load

PROTOCOLS = {
    "knn": "weighted k-NN, as DINO",
    "logreg": "logistic regression",
    "linear": "linear heads, DINOv2's grid, on features without augmentation",
}
KS = (10, 20, 100, 200)  # told side by side
TEST_SHARE = 0.2  # of a source that has to be split


def evaluate(
    protocol: str,
    encoder: str | Path | nn.Module,
    train: str | Source,
    test: str | Source | None = None,
    out: str | Path | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    k: int = 20,
    tokens: str = "cls",
    blocks: int = 1,
    precision: str = "fp32",
    seed: int = 0,
    device: str | torch.device = "cpu",
    workers: int = 0,
    cache: str | Path | None = FOLDER,
    progress: bool = False,
    environment: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """How well frozen features tell classes: by `protocol` "knn", "logreg" or "linear".

    Args:
        encoder: what `dinolab.load` takes, or "pixels", or an encoder.
        train, test: labelled images, as `data.path` takes them. Without `test`, a fifth of each class of `train` is held out
            for it. A test set without labels gets predictions and no accuracy.
        out: folder for result.json, confusion.png and predictions.csv (without labels the last alone); None writes nothing.
        size: side, or height and width, of the images in pixels; by default the encoder's own.
        k: neighbours that vote in k-NN; the accuracies of 10, 20, 100 and 200 are told beside it.
        tokens, blocks: what k-NN and logistic regression see: "cls", "patches" (their mean) or "both"; the class tokens of
            how many of the last blocks. The linear evaluation tries its own.
        precision: "fp32" or "bf16", of the encoder.
        cache: folder that keeps features; None keeps none.
        environment: facts about machine and versions, for result.json.

    Returns:
        protocol, encoder, data, seed, environment; leaks ([test, training] image, byte-identical); and with labels accuracy
        (0..1), interval (95 %, bootstrap over test images), per_class, also (accuracies for other k), without_leaks.

    Raises:
        UserError: no labels, no class in common, nothing readable, an unknown protocol or setting.
    """
    refuse_unknown("evaluation", protocol, PROTOCOLS)
    refuse_unknown("tokens", tokens, TOKENS)
    refuse_unknown("precision", precision, PRECISIONS)
    name, encoder, size = open_encoder(encoder, size)
    learn, ask = open_both(train, test, seed)
    number = None if ask.labels is None else match_classes(learn, ask)
    if out:  # that it cannot be written is better known before than after
        Path(out).mkdir(parents=True, exist_ok=True)

    if protocol == "linear":  # a network without a class token has its last layer alone
        blocks, tokens = BLOCKS if getattr(encoder, "has_class_token", True) else 1, "both"
    options: dict[str, Any] = {"device": device, "workers": workers, "progress": progress, "precision": precision}
    options |= {"blocks": blocks, "patches": tokens != "cls", "cache": Path(cache) if cache else None}
    learned, asked = extract(encoder, learn, size, **options), extract(encoder, ask, size, **options)
    if protocol == "linear":
        probabilities, chosen = linear(learned, asked, len(learn.classes), seed, device, progress)
        others: dict[str, Tensor] = {}
    else:
        features = learned.matrix(tokens, blocks), learned.labels, asked.matrix(tokens, blocks)
        chosen = {"tokens": tokens, "blocks": len(learned.blocks)}
        if protocol == "knn":
            votes = vote_for_each(*features, len(learn.classes), {k, *KS}, device)
            probabilities, others = votes[k], {f"k = {n}": most_likely(votes[n]) for n in KS}
            chosen |= {"k": k, "temperature": TEMPERATURE}
        else:
            probabilities, found = logreg(*features, len(learn.classes), seed, progress)
            chosen, others = chosen | found, {}

    leaks = find_leaks(learned, asked)
    leaked = warn_of_leaks(leaks, learn, learned, ask, asked)
    result = {
        "protocol": {"name": PROTOCOLS[protocol], "size": size, "precision": precision, **chosen},
        "encoder": {"name": name, **{fact: getattr(encoder, fact, None) for fact in ("dim", "patch_size", "info")}},
        "data": describe(learn, learned, ask, asked, "given" if test is not None else f"{TEST_SHARE:.0%} held out"),
        "leaks": leaked,
        "seed": seed,
        "environment": environment,
    }
    predicted = most_likely(probabilities).numpy()
    classes = [*learn.classes, *(name for name in ask.classes if name not in set(learn.classes))]
    truth = None if number is None else number[asked.labels].numpy()
    if truth is not None:
        result |= score(predicted, truth, classes)
        result["also"] = {name: float((other.numpy() == truth).mean()) for name, other in others.items()}
        clean = np.setdiff1d(np.arange(len(truth)), [row for row, _ in leaks])
        result["without_leaks"] = float((predicted == truth)[clean].mean()) if len(clean) else None
    if out:
        images = np.array(names(ask), object)[asked.kept.numpy()].tolist()
        write(Path(out), result, images, classes, predicted, probabilities.amax(1).numpy(), truth)
    return result


def embed(
    encoder: str | Path | nn.Module,
    data: str | Source,
    out: str | Path | None = None,
    *,
    patches: bool = False,
    size: int | tuple[int, int] | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    workers: int = 0,
    cache: str | Path | None = FOLDER,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Features of all readable images, also written to `out`, an .npz, if it is given. Arguments as those of `evaluate`.

    Returns:
        cls float32 (N, D); patches float32 (N, D), their mean, if asked for; labels int64 (N,), -1 without labels;
        classes, their names; names of the images (N,).

    Raises:
        UserError: nothing readable, or `out` is no .npz or in a folder that is not there.
    """
    refuse_unknown("precision", precision, PRECISIONS)
    file = Path(out) if out else None
    if file and (file.suffix != ".npz" or not file.parent.is_dir()):
        raise UserError(f"--out {file}: name a file that ends in .npz, in a folder that is there")
    _, encoder, size = open_encoder(encoder, size)
    source = open_source(data, option="--data") if isinstance(data, str) else data
    options: dict[str, Any] = {"device": device, "workers": workers, "progress": progress, "precision": precision}
    found = extract(encoder, source, size, patches=patches, cache=Path(cache) if cache else None, **options)
    arrays = {"cls": found.matrix().numpy()}
    if patches:
        arrays["patches"] = found.patches.numpy()
    arrays |= {"labels": found.labels.numpy(), "classes": np.array(source.classes, str)}
    arrays["names"] = np.array(names(source), str)[found.kept.numpy()]
    if file:
        beside = file.with_suffix(".tmp.npz")
        np.savez(beside, **arrays)  # type: ignore[arg-type]
        beside.replace(file)
    return arrays


def refuse_unknown(what: str, given: str, known: Any) -> None:
    if given not in known:
        raise UserError(f"{what} {given!r} is not one of {', '.join(known)}")


def open_encoder(
    encoder: str | Path | nn.Module, size: int | tuple[int, int] | None
) -> tuple[str, Any, tuple[int, int]]:
    """Name, encoder, and height and width that it is to see, from a module, "pixels", or what `load` takes."""
    name = type(encoder).__name__ if isinstance(encoder, nn.Module) else str(encoder)
    if not isinstance(encoder, nn.Module):
        encoder = PixelEncoder() if encoder == "pixels" else load(encoder)
    size = size or int(getattr(encoder, "image_size", 224))
    return name, encoder, (size, size) if isinstance(size, int) else size


def open_both(train: str | Source, test: str | Source | None, seed: int) -> tuple[Source, Source]:
    """Images to learn from, labelled, and images to be asked of, which may have no labels."""
    learn = open_source(train, need_labels=True, option="--train") if isinstance(train, str) else train
    if learn.labels is None:
        raise UserError(f"{learn.name} has no labels, and the training images need some")
    if test is None:
        return stratified_split(learn, TEST_SHARE, seed)
    return learn, open_source(test, option="--test") if isinstance(test, str) else test


def describe(learn: Source, learned: FeatureSet, ask: Source, asked: FeatureSet, split: str) -> dict[str, Any]:
    return {
        "train": learn.name,
        "test": ask.name,
        "split": split,
        "train_images": len(learned),
        "test_images": len(asked),
        "unreadable": {"train": len(learn) - len(learned), "test": len(ask) - len(asked)},
        "classes": learn.classes,
    }
