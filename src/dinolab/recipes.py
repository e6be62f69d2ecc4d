"""Recipes: YAML files of training options, dinolab's own and the user's; and the rules that a training's options must obey together.

A configuration has the options that every training has (options.Config) and those of its method, side by side.
"""

import dataclasses
import os
from collections.abc import Container, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from dinolab.config import SHOWN, check_options, flatten, nested, parse_duration, read_options, to_dict
from dinolab.errors import UserError, nearest
from dinolab.fields import AUTO, options
from dinolab.methods import METHODS
from dinolab.options import CONVNETS, Config, Model
from dinolab.plain_yaml import read_yaml, write_yaml

SEE = "dinolab train --help"
HERE = Path(__file__).resolve().parent
FOLDERS = (HERE / "configs", HERE.parents[1] / "configs")  # of the installed package, of a checkout
Layer = tuple[str, dict[str, Any]]  # where it comes from, and its options
RENAMED = {"optim.freeze_prototypes": "loss.freeze_prototypes"}  # option in earlier versions: today's name


class OptionOfOthers(UserError):
    """An option that other methods have, and the chosen one does not."""


def schema(method: str = "") -> type[Config]:
    """The dataclass of all options of a training with this method; the default method's for an empty name."""
    name = method or next(iter(METHODS))
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"method={str(name)[:SHOWN]}: one of {', '.join(METHODS)}")
    return _schema(name, METHODS[name].Options)


@cache
def _schema(name: str, own: type) -> type[Config]:
    """Config with the method's own options as further fields; `method` has its name as default."""
    (first, *_) = dataclasses.fields(Config)
    metadata = {**first.metadata, "choices": [*METHODS]}
    fields: list[Any] = [("method", str, dataclasses.field(default=name, metadata=metadata))]
    for f in dataclasses.fields(own):
        how = (
            {"default": f.default}
            if f.default_factory is dataclasses.MISSING
            else {"default_factory": f.default_factory}
        )
        fields.append((f.name, f.type, dataclasses.field(**how, metadata=f.metadata)))  # type: ignore[call-overload]
    return dataclasses.make_dataclass("Config", fields, bases=(Config,))


def load_config(file: str | Path | None = None, words: Sequence[str] = ()) -> Config:
    """Defaults, then the YAML file (a path, or the name of a recipe that dinolab ships), then `key=value` words.

    A file may name another one, `base: NAME`, whose options it starts from. A word `method=NAME` takes a recipe of another method
    along: options of the recipe that the method does not have are then left out. In the same way a word `model.size=resnet50` takes
    along a recipe that was written for a vision transformer.

    Raises UserError for an unknown key (with the nearest known one), a wrong type, or a value out of range.
    """
    layers = read_recipe(file) if file is not None else []
    written = next((layer["method"] for _, layer in reversed(layers) if "method" in layer), "")
    chosen = last_given("method", words) or written
    if chosen != written:
        layers = [(where, without_foreign(layer, chosen)) for where, layer in layers]
    if last_given("model.size", words) in CONVNETS:
        layers = [(where, without(layer, only_of_vits())) for where, layer in layers]
    cfg = assemble(chosen, layers, words)
    cfg.run.dir = cfg.run.dir or str(Path("runs") / (Path(file).stem if file else cfg.method))
    validate(cfg)
    return cfg


def last_given(option: str, words: Sequence[str]) -> str:
    """The value of an option in the last of these words that has it; empty if none has."""
    return next((word.partition("=")[2] for word in reversed(words) if word.startswith(f"{option}=")), "")


def load_saved_config(file: Path, words: Sequence[str] = ()) -> Config:
    """The config.yaml of a run's folder, then words. Earlier versions wrote the options of all methods into it: those are left out."""
    layer = as_it_was(renamed(read_yaml(file)))
    method = layer.get("method", "")
    cfg = assemble(method, [(str(file), without_foreign(layer, method))], words)
    validate(cfg)
    return cfg


def save_config(cfg: Config, file: Path) -> None:
    write_yaml(to_dict(cfg), file)


def assemble(method: str, layers: Sequence[Layer], words: Sequence[str]) -> Config:
    """The options of these layers and words, not yet checked against each other."""
    made = schema(method)
    known = dict(options(made))
    for word in words:
        key = word.partition("=")[0]
        if key in RENAMED:
            raise UserError(f"option {key} is now called {RENAMED[key]}")
        owners = [name for name in METHODS if key not in known and key in dict(options(schema(name)))]
        if owners:
            raise OptionOfOthers(
                f"option {word}: method={made().method} has no such option; it belongs to {', '.join(owners)}"
            )
    return read_options(made, words, layers, SEE, check=False)


def read_recipe(file: str | Path, before: tuple[Path, ...] = ()) -> list[Layer]:
    """The layers of a recipe: those of its `base:`, then its own."""
    path = find_recipe(file)
    if path in before:
        raise UserError(f"{path}: its base leads back to itself: {' -> '.join(map(str, [*before, path]))}")
    layer = renamed(read_yaml(path))
    base = layer.pop("base", None)
    if base is None:
        return [(str(path), layer)]
    if not isinstance(base, str):
        raise UserError(f"{path}: base={base}: names one recipe or YAML file")
    beside = path.parent / base
    return [*read_recipe(beside if os.path.isfile(beside) else base, (*before, path)), (str(path), layer)]


def renamed(layer: dict[str, Any]) -> dict[str, Any]:
    """With today's names for options that earlier versions called otherwise."""
    layer = deepcopy(layer)
    for old, new in RENAMED.items():
        section, name = old.split(".")
        if isinstance(layer.get(section), dict) and name in layer[section]:
            layer = merge(layer, nested(new, layer[section].pop(name)))
    return layer


def as_it_was(layer: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration with the values of options that its version did not have, where today's default is another."""
    model, init = layer.get("model"), layer.get("init")
    if isinstance(model, dict) and "drop_path_rates" not in model:
        layer = merge(layer, nested("model.drop_path_rates", "rounded"))
    if (
        isinstance(init, dict)
        and isinstance(model, dict)
        and "freeze_norms" not in init
        and model.get("size") == "resnet50"
    ):
        layer = merge(layer, nested("init.freeze_norms", False))
    return layer


def merge(tree: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both; the second's values where both have one."""
    merged = dict(tree)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def without_foreign(layer: dict[str, Any], method: str) -> dict[str, Any]:
    """Without the method's name, and without options that this method does not have and another has."""
    own = dict(options(schema(method)))
    foreign = {key for name in METHODS for key, _ in options(schema(name)) if key not in own}
    return ({"method": method} if method else {}) | without(layer, {*foreign, "method"})


def without(layer: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """Without the options of these full names, as `model.dim`."""
    kept: dict[str, Any] = {}
    for key, value in flatten(layer).items():
        if key not in names:
            kept = merge(kept, nested(key, value))
    return kept


def only_of_vits() -> list[str]:
    """Names of the options that only vision transformers have."""
    of_model = [f"model.{f.name}" for f in dataclasses.fields(Model) if f.name != "size"]
    return [*of_model, "optim.patch_embed_lr", "run.compile", "run.checkpoint_activations", "init.lora"]


def find_recipe(file: str | Path) -> Path:
    """The file itself, or a shipped recipe of that name: configs/ of a checkout, or of the installed package."""
    name = Path(file).name if Path(file).suffix else f"{Path(file).name}.yaml"
    own = [folder / name for folder in FOLDERS] if str(Path(file).parent) in (".", "configs") else []
    for path in [Path(file), *own]:
        if os.path.isfile(path):  # unlike Path.is_file, it is false for a name that is too long
            return path
    near = nearest(Path(file).name, shipped())
    hint = f"did you mean {near}? " if near else ""
    raise UserError(f"{file}: no such config file; {hint}dinolab's own are {', '.join(shipped())}")


def shipped() -> list[str]:
    """Names of the recipes that dinolab ships."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


def validate(cfg: Config) -> None:
    """Raises UserError for a value out of its range, and for options that contradict each other."""
    if not isinstance(cfg, schema(cfg.method)):
        raise UserError("a Config needs its method's options: make it by dinolab.recipes.load_config")
    check_options(cfg)
    values = flatten(to_dict(cfg))
    for name in ("views.global_scale", "views.local_scale", "views.aspect"):
        if values[name][0] > values[name][1]:
            raise UserError(f"{name}={values[name]}: the first number must not be larger than the second")
    for name, of in (("optim.length", "the run"), ("highres.length", "its phase")):
        if parse_duration(values[name], name)[1] == "%":
            raise UserError(f"{name} is the length of {of} itself; give it in epochs or steps")
    validate_model(cfg)
    for name, value in (("init.pull", cfg.init.pull), ("init.lora", cfg.init.lora)):
        if value and not cfg.init.weights:
            raise UserError(f"{name}={value} needs weights to start from: set init.weights, or leave it out")
    if cfg.run.device_views == "always" and cfg.views.distorted:
        raise UserError(
            "run.device_views=always: RandAugment and random erasing are made on the CPU alone; "
            "set run.device_views=never, or views.randaugment=0 and views.erase=0"
        )
    batch, micro = cfg.optim.batch_size, cfg.run.micro_batch
    if micro not in (0, AUTO) and batch % micro:
        raise UserError(f"run.micro_batch={micro} does not divide optim.batch_size={batch}")
    method = METHODS[cfg.method]
    method.check(cfg)
    if cfg.views.randaugment and method.needs(cfg).places:
        raise UserError(
            f"views.randaugment={cfg.views.randaugment:g}: it moves what is in a crop, and method={cfg.method} compares patches with "
            "those at the same place of the image; set views.randaugment=0"
        )


def validate_model(cfg: Config) -> None:
    """Raises UserError for a backbone that does not go with its options or with the sizes of the crops."""
    if cfg.model.interpolate_offset and cfg.model.antialias:  # no model has both, and PyTorch's devices then disagree
        raise UserError("model.interpolate_offset is for unfiltered positions: set model.antialias=false too")
    if cfg.optim.stem_lr and not cfg.model.stem:
        raise UserError(
            f"optim.stem_lr={cfg.optim.stem_lr:g}: there is no stem to train; set model.stem too, or leave it out"
        )
    if cfg.model.convolutional:
        refuse_vit_options(cfg)
    patch = 1 if cfg.model.convolutional else cfg.model.patch_size  # convolutions take any size
    for name, size in (("views.global_size", cfg.views.global_size), ("views.local_size", cfg.views.local_size)):
        if size % patch and not (name == "views.local_size" and cfg.views.locals == 0):
            near = max(patch, round(size / patch) * patch)
            raise UserError(f"{name}={size} is not a multiple of model.patch_size={patch}; {near} is")
    if 0 < cfg.eval.size < patch:
        raise UserError(f"eval.size={cfg.eval.size} is smaller than model.patch_size={patch}")


def refuse_vit_options(cfg: Config) -> None:
    """Raises UserError for options that only vision transformers have."""
    now, usual = flatten(to_dict(cfg)), flatten(to_dict(Config()))
    changed = [f"{name}={now[name]}" for name in only_of_vits() if now[name] != usual[name]]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: for vision transformers only; leave it out with model.size={cfg.model.size}"
        )
