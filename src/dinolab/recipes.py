"""Recipes: YAML files of training options, dinolab's own and the user's; and what a training's options ask of each other."""

from collections.abc import Sequence
from pathlib import Path

from dinolab.config import check_options, flatten, parse_duration, read_options, read_yaml, to_dict, write_yaml
from dinolab.errors import UserError
from dinolab.options import Config

SEE = "dinolab train --help"
HERE = Path(__file__).resolve().parent
FOLDERS = (HERE / "configs", HERE.parents[1] / "configs")  # of the installed package, of a checkout


def schema(method: str = "") -> type[Config]:
    """The dataclass of all options of a training by this method; without a name, of the default method."""
    return Config


def load_config(file: str | Path | None, words: Sequence[str] = ()) -> Config:
    """Defaults, then the YAML file (a path, or the name of a recipe that dinolab ships), then `key=value` words.

    Raises UserError for an unknown key (with the nearest known one), a wrong type, or a value out of range.
    """
    path = find_recipe(file) if file is not None else None
    layers = [(str(path), read_yaml(path))] if path else []
    cfg = read_options(Config, words, layers, SEE, check=False)
    cfg.run.dir = cfg.run.dir or str(Path("runs") / (Path(file).stem if file else cfg.method))
    validate(cfg)
    return cfg


def find_recipe(file: str | Path) -> Path:
    """The file itself, or a shipped recipe of that name: configs/ of a checkout, or of the installed package."""
    name = Path(file).name if Path(file).suffix else f"{Path(file).name}.yaml"
    own = [folder / name for folder in FOLDERS] if str(Path(file).parent) in (".", "configs") else []
    for path in [Path(file), *own]:
        if path.is_file():
            return path
    raise UserError(f"{file}: no such config file; dinolab's own are {', '.join(shipped())}")


def shipped() -> list[str]:
    """Names of the recipes that dinolab ships."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


def save_config(cfg: Config, path: Path) -> None:
    write_yaml(to_dict(cfg), path)


def validate(cfg: Config) -> None:
    """Ranges of single options, then what options ask of each other."""
    check_options(cfg)
    values = flatten(to_dict(cfg))
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
