"""`dinolab.evaluate`: an encoder and images in; figures and files out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dinolab.data.types import Source
from dinolab.evals.inputs import (
    Sides,
    describe,
    open_device,
    open_encoder,
    open_images,
    pair,
    refuse_below,
    refuse_unknown,
)
from dinolab.evals.knn import TEMPERATURE, match_classes, most_likely, vote_for_each
from dinolab.evals.linear import BLOCKS, linear
from dinolab.evals.linear_dino import DEFAULTS, choose_input, linear_dino
from dinolab.evals.logreg import logreg
from dinolab.evals.results import find_leaks, score, summarise, warn_of_leaks, write
from dinolab.features.cache import FOLDER
from dinolab.features.extract import PRECISIONS, TOKENS, extract

PROTOCOLS = {
    "knn": "weighted k-NN, as DINO",
    "logreg": "logistic regression",
    "linear": "linear heads, DINOv2's grid, on features without augmentation",
    "linear-dino": "a linear layer by SGD on augmented images, as DINO",
    "finetune": "fine-tuning of all weights, as DeiT",
}


class Answer(NamedTuple):
    probabilities: Tensor  # float32 (M, classes)
    chosen: dict[str, Any]  # what the protocol did, for the result
    others: dict[str, Tensor] = {}  # noqa: RUF012  # predictions int64 (M,) of other settings


KS = (10, 20, 100, 200)  # told side by side


def evaluate(
    protocol: str,
    encoder: str | Path | nn.Module,
    train: str | Path | Source,
    test: str | Path | Source | None = None,
    out: str | Path | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    k: int = 20,
    tokens: str = "cls",
    blocks: int = 1,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | Sequence[float] | None = None,
    precision: str = "fp32",
    seed: int = 0,
    seeds: int = 1,
    solver: str = "auto",
    device: str | torch.device | None = None,
    workers: int = 0,
    cache: str | Path | None = FOLDER,
    progress: bool = False,
    name: str | None = None,
    environment: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """How well an encoder tells classes, by `protocol`: "knn", "logreg", "linear" or "linear-dino", on frozen features, or
    "finetune", of a copy of it.

    Args:
        encoder: what `dinolab.load` takes, or "pixels", or an encoder.
        train, test: labelled images, as `data.path` takes them. Without `test`, a fifth of each class of `train` is held out,
            near-duplicates together; that split is kept beside the data, for the next time. A test set without labels gets
            predictions and no accuracy.
        out: folder for result.json, predictions.csv and, with labels, confusion.png; None writes nothing.
        size: side, or height and width, of the images in pixels; by default the encoder's own.
        k: neighbours that vote in k-NN; the accuracies of 10, 20, 100 and 200 are told beside it.
        tokens, blocks: what k-NN and logistic regression see: "cls", "patches" (their mean) or "both"; the class tokens of
            how many of the last blocks. The linear evaluation tries its own.
        epochs, batch_size, lr: of linear-dino (by default 100, 128, and eight rates around the published 0.001) and finetune
            (100, 64, 5e-4). `lr` is for batches of 256, and scaled by batch_size / 256; linear-dino chooses among several.
        precision: "fp32" or "bf16", of the encoder.
        seed, seeds: of splits, folds and heads. With more than one, everything that is drawn is drawn again from seed + 1 on,
            and the accuracies' mean and deviation are told beside the first; k-NN of a given test set draws nothing.
        solver: of logistic regression, see `logreg`.
        device: "auto", "cpu", "cuda" or "mps", to which the encoder is moved; by default where it is: a name is loaded on the CPU.
        workers: processes that load images; 0 loads in this one.
        cache: folder that keeps features; None keeps none.
        name: what results call the encoder.
        environment: facts about machine and versions, for result.json.

    Returns:
        protocol, encoder, data, seed, environment; leaks ([test, training] image, byte-identical); and with labels accuracy
        (0..1), interval (95 %, bootstrap over test images), per_class, also (accuracies for other k), without_leaks,
        seeds (seed, accuracy, mean, std) where there are several.

    Raises:
        UserError: no labels, no class in common, nothing readable, an unknown protocol or setting.
    """
    refuse_unknown("evaluation", protocol, PROTOCOLS)
    refuse_unknown("tokens", tokens, TOKENS)
    refuse_unknown("precision", precision, PRECISIONS)
    refuse_below(1, k=k, blocks=blocks, seeds=seeds, size=size)
    refuse_below(0, seed=seed, workers=workers)
    known_as, encoder, size = open_encoder(encoder, size)
    on = open_device(device, encoder)
    training = DEFAULTS.but(epochs, batch_size, lr)
    if protocol == "finetune":
        from dinolab.evals import finetune  # here, since timm may be missing

        training = finetune.DEFAULTS.but(epochs, batch_size, lr)
        finetune.refuse_untunable(encoder, training)
    sources = open_images(train, test)
    if len(sources) == 2 and sources[1].classes and not {*sources[0].classes} & {*sources[1].classes}:
        match_classes(*sources)  # which refuses: better now than after hours of training
    if out:  # that it cannot be written is better known before than after
        Path(out).mkdir(parents=True, exist_ok=True)

    if protocol == "linear":  # a network without a class token has its last layer alone
        blocks, tokens = BLOCKS if getattr(encoder, "has_class_token", True) else 1, "both"
    elif protocol == "linear-dino":
        blocks, tokens = choose_input(encoder)
    running: dict[str, Any] = {"device": on, "workers": workers, "progress": progress, "precision": precision}
    options = running | {"blocks": blocks, "patches": tokens != "cls", "cache": Path(cache) if cache else None}
    features = [extract(encoder, source, size, **options) for source in sources]

    def answer(seed: int) -> tuple[Sides, Answer]:
        sides = pair(sources, features, seed, out, progress)
        learn, learned, ask, asked, _ = sides
        if protocol == "linear":
            return sides, Answer(*linear(learned, asked, len(learn.classes), seed, on, progress))
        if protocol == "linear-dino":
            return sides, Answer(*linear_dino(encoder, learn, learned, asked, size, training, seed, **running))
        if protocol == "finetune":
            keep = Path(out) / f"finetune_{seed}.pt" if out else None
            probabilities, chosen, asked = finetune.finetune(
                encoder, learn, learned, ask, size, training, seed, keep=keep, **running
            )
            return sides._replace(asked=asked), Answer(probabilities, chosen)
        matrices = learned.matrix(tokens, blocks), learned.labels, asked.matrix(tokens, blocks)
        seen = {"tokens": tokens, "blocks": len(learned.blocks)}
        if protocol == "logreg":
            probabilities, chosen = logreg(*matrices, len(learn.classes), seed, progress, on, solver)
            return sides, Answer(probabilities, seen | chosen)
        votes = vote_for_each(*matrices, len(learn.classes), {k, *KS}, on)
        others = {f"k = {n}": most_likely(votes[n]) for n in KS}
        return sides, Answer(votes[k], seen | {"k": k, "temperature": TEMPERATURE}, others)

    sides, (probabilities, chosen, others) = answer(seed)
    leaks = find_leaks(sides.learned, sides.asked)
    leaked = warn_of_leaks(leaks, sides.learn, sides.learned, sides.ask, sides.asked)
    facts = {fact: getattr(encoder, fact, None) for fact in ("dim", "patch_size", "info")}
    result: dict[str, Any] = {
        "protocol": {"name": PROTOCOLS[protocol], "size": size, "precision": precision, **chosen},
        "encoder": {"name": name or known_as, **facts},
        "data": describe(sides),
        "leaks": leaked,
        "seed": seed,
        "environment": environment,
    }
    predicted, truth = most_likely(probabilities).numpy(), find_truth(sides)
    classes = [*sides.learn.classes, *(name for name in sides.ask.classes if name not in set(sides.learn.classes))]
    if truth is not None:
        result |= score(predicted, truth, classes)
        result["also"] = {name: float((other.numpy() == truth).mean()) for name, other in others.items()}
        clean = np.setdiff1d(np.arange(len(truth)), [row for row, _ in leaks])
        result["without_leaks"] = float((predicted == truth)[clean].mean()) if len(clean) else None
        if seeds > 1 and (protocol != "knn" or test is None):
            again = [answer(other) for other in range(seed + 1, seed + seeds)]
            right = [most_likely(found.probabilities).numpy() == find_truth(sides) for sides, found in again]
            result["seeds"] = summarise(seed, [result["accuracy"], *(float(some.mean()) for some in right)])
    if out:
        images, kept = sides.ask.names(), sides.asked.kept.numpy()
        write(Path(out), result, images, kept, classes, predicted, probabilities.amax(1).numpy(), truth)
        for done in Path(out).glob("finetune_*.pt"):
            done.unlink()
    return result


def find_truth(sides: Sides) -> np.ndarray | None:
    """int (M,), the classes of the test images as `learn` and then `ask` number them; None without labels."""
    if sides.ask.labels is None:
        return None
    return match_classes(sides.learn, sides.ask)[sides.asked.labels].numpy()
