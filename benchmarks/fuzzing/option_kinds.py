"""Options, and weights: those of a run, those that others publish, and checkpoints."""

from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from dinolab.cli.grammar import Verb, find, parse
from dinolab.cli.verbs import ROOT
from dinolab.config import parse_bytes, parse_duration, parse_size
from dinolab.errors import UserError
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.recipes import load_config, load_saved_config, save_config
from dinolab.weights.checksums import write_checksums
from dinolab.weights.load import load, save_encoder
from fuzzing.kind import Kind
from fuzzing.mutate import in_json, in_pickle, in_safetensors, in_zip, raw, text

WORDS = [
    "method=dinov2",
    "seed=3",
    "optim.lr=5e-4",
    "optim.length=10 epochs",
    "views.aspect=[0.75,1.5]",
    "model.size=small",
    "run.compile=true",
]
COMMANDS = (  # words separated by tabs
    "train\thar_small\tdata.path=images\toptim.length=10 epochs\toptim.betas=0.9,0.95\trun.dir=007\n"
    "eval\tknn\truns/a\ttrain=images\tsize=224x336\tk=20\tseed=1\n"
    "bench\tstep\tsmall_1k\tseconds=0.5\n"
    "show\tattention\truns/a\timages/a.png\tsize=64\n"
    "job\thar\tdata=images\tscale=smoke"
)
INFO = {
    "method": "dinov2",
    "step": 6,
    "images": 2,
    "config": {"model": {"size": "tiny", "dim": 16, "depth": 1, "patch_size": 8}, "optim": {"batch_size": 4}},
}


def make_options(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(
        "base: har_small\nmethod: dinov2\nseed: 3\noptim:\n  length: 10 epochs\n  lr: 5.0e-4\n  betas: [0.9, 0.95]\n  clip: 3\n"
        "views: {aspect: [0.75, 1.5], locals: 8}\ndata:\n  path: images\n  label_column: label\nrun:\n  compile: false\n"
    )
    save_config(load_config(None, WORDS), folder / "saved.yaml")
    (folder / "words.txt").write_text("\n".join(WORDS))
    (folder / "commands.txt").write_text(COMMANDS)
    (folder / "lengths.txt").write_text("10 epochs\n500 steps\n10%\n1.5 ep\n224x336\n500M\n1G\n")


def read_options(folder: Path, name: str) -> None:
    """Recipes, words behind `dinolab train`, whole command lines, and texts that stand for lengths and sizes."""
    if name == "recipe.yaml":
        load_config(folder / name)
    elif name == "saved.yaml":
        load_saved_config(folder / name)
    else:
        lines = (folder / name).read_text(errors="surrogateescape").split("\n")
        if name == "words.txt":
            load_config(None, lines)
        for line in lines:
            read_line(line, name)


def read_line(line: str, name: str) -> None:
    with suppress(UserError):
        if name == "commands.txt":
            place = find(ROOT, line.split("\t"))
            if isinstance(place.at, Verb):
                parse(place)
    for check in (parse_duration, parse_size, parse_bytes):
        with suppress(UserError):
            check(line, "option")


def network() -> ViT:
    torch.manual_seed(0)
    return ViT(Model(dim=16, depth=1, heads=1, patch_size=8), 16)


def make_weights(folder: Path) -> None:
    save_encoder(network(), folder, INFO)
    dim = {"dim": 64, "depth": 1, "heads": 1, "patch_size": 8}
    torch.save(
        {
            "teacher": {f"backbone.{name}": value for name, value in ViT(Model(**dim), 16).state_dict().items()},
            "epoch": 3,
        },
        folder / "a.pth",
    )


def load_weights(folder: Path, name: str) -> None:
    """Opens the weights, and encodes an image with them."""
    encoder = load(folder / name, heads=1) if name.endswith(".pth") else load(folder)
    with torch.no_grad():
        encoder(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def make_checkpoints(folder: Path) -> None:
    save_encoder(network(), folder, INFO)
    state = {"method": {"teacher": {"backbone": network().state_dict()}}, "step": torch.tensor(6)}
    for name in ("step_3", "step_6"):
        dcp.save(state, checkpoint_id=folder / "checkpoints" / name, no_dist=True)
    write_checksums(folder / "checkpoints" / "step_6")


def load_checkpoint(folder: Path, name: str) -> None:
    load(folder / Path(name).parent)


WEIGHTS = {"model.json": in_json, "*.safetensors": in_safetensors, "*.pth": in_zip}
CHECKPOINTS = {"checkpoints/*/.metadata": in_pickle, "checkpoints/*/*.distcp": raw, "checkpoints/*/*.json": in_json}
KINDS = {
    "options": Kind(make_options, {"*": text}, read_options),
    "weights": Kind(make_weights, WEIGHTS, load_weights),
    "checkpoint": Kind(make_checkpoints, CHECKPOINTS, load_checkpoint),
}
