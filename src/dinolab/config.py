"""How a YAML file and `key=value` words become a checked configuration. The options themselves: options.py.

This is the only file that imports OmegaConf. Order of precedence, lowest first: the defaults, the YAML file, the `key=value` words.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dinolab.errors import UserError
from dinolab.options import Config, in_words, options

UNITS = {"step": "steps", "steps": "steps", "epoch": "epochs", "epochs": "epochs", "ep": "epochs", "%": "%"}


def load_config(file: str | Path | None, words: Sequence[str] = ()) -> Config:
    """Defaults, then the YAML file (a path, or the name of a recipe that dinolab ships), then `key=value` words.

    Raises UserError for an unknown key (with the nearest known one), a wrong type, or a value out of range.
    """
    merged = OmegaConf.structured(Config)
    try:
        if file is not None:
            path = find_recipe(file)
            layer = OmegaConf.load(path)
            _check_keys(OmegaConf.to_container(layer) or {}, str(path))
            merged = OmegaConf.merge(merged, layer)
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise UserError(f"{word!r}: options are written key=value, for example optim.lr=5e-4")
            text = any(name == key and f.type is str for name, f in options())  # YAML would make 7 of a folder 007
            layer = OmegaConf.from_dotlist([f"{key}={json.dumps(value)}" if text else word])
            _check_keys(OmegaConf.to_container(layer), f"option {key}")
            merged = OmegaConf.merge(merged, layer)
        cfg = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise UserError(f"{key}{str(error).splitlines()[0]}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    assert isinstance(cfg, Config)
    cfg.run.dir = cfg.run.dir or str(Path("runs") / (Path(file).stem if file else cfg.method))
    validate(cfg)
    return cfg


def find_recipe(file: str | Path) -> Path:
    """The file itself, or a shipped recipe of that name: configs/ of a checkout, or of the installed package."""
    here = Path(__file__).resolve().parent
    folders = [here / "configs", here.parents[1] / "configs"]
    name = Path(file).name if Path(file).suffix else f"{Path(file).name}.yaml"
    shipped = [folder / name for folder in folders] if str(Path(file).parent) in (".", "configs") else []
    for path in [Path(file), *shipped]:
        if path.is_file():
            return path
    known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    raise UserError(f"{file}: no such config file; dinolab's own are {', '.join(known)}")


def to_dict(cfg: Config) -> dict[str, Any]:
    return dataclasses.asdict(cfg)


def save_config(cfg: Config, path: Path) -> None:
    OmegaConf.save(OmegaConf.structured(cfg), path)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _check_keys(tree: Any, where: str) -> None:
    if not isinstance(tree, dict):
        raise UserError(f"{where}: not a mapping of options")
    known = [name for name, _ in options()]
    sections = {name.split(".")[0] for name in known if "." in name}
    for key, value in flatten(tree).items():
        if key in known or (key in sections and value is None):
            continue
        near = difflib.get_close_matches(key, known, 1, 0.5) or [
            n for n in known if n.split(".")[-1] == key.split(".")[-1]
        ]
        hint = f"did you mean {near[0]}?" if near else "see dinolab train --help"
        raise UserError(f"{where}: there is no option {key}; {hint}")


def parse_duration(text: str, option: str) -> tuple[float, str]:
    """ "10 epochs" -> (10.0, "epochs"); units are steps, epochs and %."""
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*([a-z]+|%)\s*", text)
    if not match or match[2] not in UNITS:
        raise UserError(f'{option}={text!r} is no duration; write "10 epochs", "500 steps" or "10%" (of the run)')
    return float(match[1]), UNITS[match[2]]


def validate(cfg: Config) -> None:
    """Ranges of single options, then what options ask of each other."""
    values = flatten(to_dict(cfg))
    for name, f in options():
        value, low, high, choices = values[name], *(f.metadata.get(k) for k in ("low", "high", "choices"))
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else None  # type: ignore[misc]
        if isinstance(default, list) and len(value) != len(default):
            raise UserError(f"{name}={value}: takes {len(default)} numbers, like {default}")
        if choices and value not in choices:
            raise UserError(f"{name}={value}: one of {', '.join(choices)}")
        if f.metadata.get("duration"):
            parse_duration(value, name)
        for number in value if isinstance(value, list) else [value]:
            if low is not None and high is not None and not low <= number <= high:
                raise UserError(f"{name}={number}: out of range, {in_words(low)} to {in_words(high)}")
    for name in ("views.global_scale", "views.local_scale", "views.aspect", "masks.ratio"):
        if values[name][0] > values[name][1]:
            raise UserError(f"{name}={values[name]}: the first number must not be larger than the second")
    for name, of in (("optim.length", "the run"), ("highres.length", "its phase")):
        if parse_duration(values[name], name)[1] == "%":
            raise UserError(f"{name} is the length of {of} itself; give it in epochs or steps")
    if cfg.model.interpolate_offset and cfg.model.antialias:  # no model has both, and PyTorch's devices then disagree
        raise UserError("model.interpolate_offset is for unfiltered positions: set model.antialias=false too")
    resnet = cfg.model.size == "resnet50"
    if resnet:
        validate_resnet(cfg)
    patch = 1 if resnet else cfg.model.patch_size  # convolutions take any size
    for name in ("views.global_size", "views.local_size"):
        if values[name] % patch and not (name == "views.local_size" and cfg.views.locals == 0):
            near = max(patch, round(values[name] / patch) * patch)
            raise UserError(f"{name}={values[name]} is not a multiple of model.patch_size={patch}; {near} is")
    if cfg.teacher and cfg.method != "distill":
        raise UserError(
            f"teacher={cfg.teacher}: method={cfg.method} learns from its own; set method=distill, or leave it out"
        )
    if cfg.method == "distill" and cfg.model.drop_path:
        raise UserError(f"model.drop_path={cfg.model.drop_path:g}: method=distill has no stochastic depth; set it to 0")
    if 0 < cfg.eval.size < patch:
        raise UserError(f"eval.size={cfg.eval.size} is smaller than model.patch_size={patch}")
    if cfg.method == "dinov2" and cfg.loss.ibot:
        patches = (cfg.views.global_size // patch) ** 2
        if round(cfg.masks.share * 2 * cfg.optim.batch_size) == 0 or round(cfg.masks.ratio[0] * patches) == 0:
            raise UserError(
                "masks.share or masks.ratio masks no patch; raise them, or set loss.ibot=0 to train without masks"
            )
    batch, micro = cfg.optim.batch_size, cfg.run.micro_batch
    if micro and batch % micro:
        raise UserError(f"run.micro_batch={micro} does not divide optim.batch_size={batch}")
    if cfg.method != "dino" and cfg.loss.koleo and (micro or batch) < 2:
        name = "run.micro_batch" if micro else "optim.batch_size"
        raise UserError(f"{name}=1: KoLeo looks for neighbours within it; make it 2 or more, or set loss.koleo=0")


def validate_resnet(cfg: Config) -> None:
    """Refuses what only a vision transformer has."""
    now, usual = flatten(to_dict(cfg)), flatten(to_dict(Config()))
    of_vits = [name for name in now if name.startswith("model.") and name != "model.size"]
    of_vits += ["optim.layer_decay", "optim.patch_embed_lr", "run.compile", "run.checkpoint_activations"]
    changed = [f"{name}={now[name]}" for name in of_vits if now[name] != usual[name]]
    if changed:
        raise UserError(f"{', '.join(changed)}: of vision transformers alone; leave it out with model.size=resnet50")
    if cfg.method == "dinov2" and cfg.loss.ibot:
        raise UserError("model.size=resnet50 has no mask token: train it with method=dino, or with loss.ibot=0")
    if cfg.method == "distill":  # no image passes through the product in training
        raise UserError("model.size=resnet50: its batch norm has no statistics with method=distill; distil into a ViT")
