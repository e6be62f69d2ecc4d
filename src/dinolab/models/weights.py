"""A run's product on disk: `model.safetensors` and `model.json`, which open with nothing else of the run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from dinolab.config import Model
from dinolab.errors import UserError
from dinolab.models.encoder import Encoder
from dinolab.models.vit import ViT

FORMAT = "dinolab 1"


def save_encoder(vit: ViT, folder: Path, info: dict[str, Any]) -> None:
    """Write both files into the run's folder."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in vit.state_dict().items()}
    card = {"format": FORMAT, "image_size": vit.image_size, "model": asdict(vit.cfg), "info": info}
    write_whole(folder / "model.safetensors", save(weights))
    write_whole(folder / "model.json", json.dumps(card, indent=2).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write beside and rename: a kill leaves the old file or the new one."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(content)
    beside.replace(path)


def load(path: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """Open a run's folder (or its model.safetensors) as an encoder, in evaluation mode.

    Raises UserError where files are missing, broken, or do not fit each other.
    """
    path = Path(path)
    folder = path.parent if path.name in ("model.safetensors", "model.json") else path
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} there; give the folder of a dinolab run that has saved at least once")
    try:
        card = json.loads((folder / "model.json").read_text())
        if card.get("format") != FORMAT:
            raise UserError(f"{folder / 'model.json'}: format {card.get('format')!r}, this dinolab reads {FORMAT!r}")
        vit = ViT(Model(**card["model"]), card["image_size"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'model.json'}: not a dinolab model card ({error})") from error
    try:
        weights = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise UserError(f"{folder / 'model.safetensors'}: truncated or not a safetensors file ({error})") from error
    problems = [f"{name} is missing" for name in vit.state_dict().keys() - weights.keys()]
    problems += [f"{name} is unknown" for name in weights.keys() - vit.state_dict().keys()]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, should be {tuple(own.shape)}"
        for name, own in vit.state_dict().items()
        if name in weights and weights[name].shape != own.shape
    ]
    if problems:
        raise UserError(f"{folder / 'model.safetensors'} does not fit its model.json: {'; '.join(sorted(problems))}")
    vit.load_state_dict(weights)
    return Encoder(vit.requires_grad_(False), card.get("info", {})).to(device).eval()
