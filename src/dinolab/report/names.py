"""Names for people: of a run's method, network and data."""

from dataclasses import asdict
from pathlib import Path

from dinolab.errors import mask
from dinolab.methods import METHODS
from dinolab.models.convnet import NETWORKS
from dinolab.models.vit import SIZES
from dinolab.options import Config
from dinolab.report.evaluated import Evaluated
from dinolab.report.run import Json, Run

JOB_DATA = (
    "data/train.csv",
    "data/test.csv",
    "data/pretrain.csv",
)  # the images of a job, which has a better name for them


def about(run: Run) -> str:
    """Method, network and data, for the page's heading; empty where the configuration is unknown."""
    if not run.config:
        return ""
    cfg = run.config
    return f"{method(cfg)}, {network(asdict(cfg.model))}, on {data(run, mask(cfg.data.path))}"


def method(cfg: Config) -> str:
    return getattr(METHODS.get(cfg.method), "TITLE", cfg.method)


def network(model: Json) -> str:
    """The usual name for these options of `model.`, such as ViT-S/8, and width and depth where they are other than usual."""
    size = str(model["size"])
    if size not in SIZES:
        return NETWORKS[size].title if size in NETWORKS else size
    dim, depth, _ = SIZES[size]
    own = model["dim"] or dim, model["depth"] or depth
    letter = "g" if size == "giant" else size[0].upper()
    return f"ViT-{letter}/{model['patch_size']}" + (f", {own[1]} blocks of {own[0]}" if own != (dim, depth) else "")


def data(run: Run, path: str) -> str:
    """The last two parts of a path; for the files of a job, what their images are."""
    name = "/".join(Path(path).parts[-2:])
    return str(run.job["title"]) if run.job and name in JOB_DATA else name


def network_of(run: Run, evaluated: Evaluated) -> str:
    """The evaluated network, if it is one of dinolab's."""
    if evaluated.is_untrained:
        return network(asdict(run.config.model)) if run.config else ""
    model = (evaluated.info.get("config") or {}).get("model") or {}
    return network(model) if {"size", "dim", "depth", "patch_size"} <= model.keys() else ""


def epochs_of(evaluated: Evaluated) -> str:
    """Passes over its images that the evaluated network was trained for; empty where that is unknown."""
    info = evaluated.info
    config = info.get("config") or {}
    if evaluated.is_untrained:
        return "0"
    if not info.get("images") or "step" not in info or "optim" not in config or has_second_phase(config):
        return ""
    return f"{round(info['step'] * config['optim']['batch_size'] / info['images'], 1):g}"


def has_second_phase(config: Json) -> bool:
    """Whether there was a phase of higher resolution, whose steps may have another number of images."""
    return not str((config.get("highres") or {}).get("length", "0")).startswith("0 ")
