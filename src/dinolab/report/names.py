"""What a reader calls a run's method, network and data."""

from dataclasses import asdict
from pathlib import Path

from dinolab.models.vit import SIZES
from dinolab.options import Config
from dinolab.report.facts import Json, Result, Run

METHODS = {"dino": "DINO", "dinov2": "DINOv2", "distill": "distillation"}
JOBS = {"har": "Human Action Recognition"}  # data of `dinolab recipe`


def about(run: Run) -> str:
    """Method, network and data, for the page's heading; empty where the configuration is unknown."""
    if not run.config:
        return ""
    cfg = run.config
    return f"{method(cfg)}, {network(asdict(cfg.model))}, on {data(run, cfg.data.path)}"


def method(cfg: Config) -> str:
    return METHODS.get(cfg.method, cfg.method)


def network(model: Json) -> str:
    """Of the options `model.`: ViT-S/8; and what is not as the name says."""
    size = str(model["size"])
    if size not in SIZES:
        return {"resnet50": "ResNet-50"}.get(size, size)
    dim, depth, _ = SIZES[size]
    own = model["dim"] or dim, model["depth"] or depth
    letter = "g" if size == "giant" else size[0].upper()
    return f"ViT-{letter}/{model['patch_size']}" + (f", {own[1]} blocks of {own[0]}" if own != (dim, depth) else "")


def data(run: Run, path: str) -> str:
    """A path's last two parts; of a job's own files, what the images are."""
    name = "/".join(Path(path).parts[-2:])
    return JOBS.get(str(run.job.get("recipe")), name) if name in ("data/train.csv", "data/test.csv") else name


def network_of(run: Run, result: Result) -> str:
    """Of an evaluated encoder, where it is one of dinolab's."""
    if result.is_untrained:
        return network(asdict(run.config.model)) if run.config else ""
    model = (result.info.get("config") or {}).get("model") or {}
    return network(model) if {"size", "dim", "depth", "patch_size"} <= model.keys() else ""


def epochs_of(result: Result) -> str:
    """Passes over its images that an encoder was trained for."""
    info = result.info
    config = info.get("config") or {}
    if result.is_untrained:
        return "0"
    if not info.get("images") or "step" not in info or "optim" not in config or has_second_phase(config):
        return ""
    return f"{round(info['step'] * config['optim']['batch_size'] / info['images'], 1):g}"


def has_second_phase(config: Json) -> bool:
    """Whether steps may be of two sizes."""
    return not str((config.get("highres") or {}).get("length", "0")).startswith("0 ")
