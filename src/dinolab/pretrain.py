"""One run from configuration to pictures: puts data, model, method, loop, evaluation and pictures together."""

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from dinolab.config import Config, flatten, load_config, save_config, to_dict, validate
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.device_views import Photos
from dinolab.data.loader import adaptive_batches, batches, photo_batches
from dinolab.data.sources import open_source, stratified_split, subset
from dinolab.data.storage import describe as location
from dinolab.data.types import Source, Views
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.evals import knn
from dinolab.methods import METHODS
from dinolab.methods.base import StudentTeacher, Targets
from dinolab.models.attention import choose_backend
from dinolab.models.encoder import Encoder
from dinolab.models.vit import ViT
from dinolab.models.weights import load, save_encoder, write_whole
from dinolab.training import checkpoint
from dinolab.training.health import Alarms, figures
from dinolab.training.log import RunLog, environment
from dinolab.training.loop import train_loop
from dinolab.training.optim import make_optimizer
from dinolab.training.profile import profiled
from dinolab.training.schedules import Schedules, parse_duration
from dinolab.training.speed import compile_blocks, keep_memory
from dinolab.visuals.attention import attention_sheet
from dinolab.visuals.curves import plot_metrics
from dinolab.visuals.pca import pca_sheet

# options that a resumed run may change; the images themselves are compared by number and names
MAY_CHANGE = ("run.", "eval.", "data.")


def train(config: Config | str | Path, *words: str, resume: bool = False) -> Path:
    """Train, or go on where an earlier call with the same run.dir stopped; returns the run's folder.

    config: a YAML file or the name of a shipped recipe, with words, `key=value`, over it; or a whole Config.
    resume: refuse to start a new run.
    """
    if isinstance(config, Config):
        cfg = config
        validate(cfg)
    else:
        cfg = load_config(config, words)
    folder = Path(cfg.run.dir or Path("runs") / cfg.method)
    if resume and not folder.is_dir():
        raise UserError(f"{folder}: no such run to resume")
    with hold(folder):
        carry_out(cfg, folder, resume)
    return folder


def carry_out(cfg: Config, folder: Path, resume: bool) -> None:
    """The run itself, in a folder that no other process trains in."""
    places = check_run(folder, cfg, resume)
    source = open_data(cfg, folder / "sources.json.gz")
    schedules, device, method, optimizer = assemble(cfg, source)
    describe_run(folder, cfg, source, resumed=bool(places))
    start, broken = checkpoint.load(places[-1], method, optimizer) if places else (0, [])

    log = RunLog(folder, cfg, schedules.total, start)
    try:
        log.say(describe(cfg, source, schedules, method, device))
        if start:
            log.say(f"resumed from {places[-1]}, step {start} of {schedules.total}")
        monitor = monitor_sources(cfg, source, log.say)
        run = Run(cfg, folder, source, method, optimizer, log, monitor, device, set(broken), schedules.total)
        if start == 0 or run.evaluation_missed(start, schedules):
            run.evaluate(start)
        with profiled(cfg.run.profile, folder / "profile", device, log.say) as end_step:
            train_loop(
                method,
                optimizer,
                schedules,
                open_batches(cfg, source, start, schedules.total, device, log.say),
                start,
                device=device,
                autocast=choose_autocast(cfg.run.precision, device),
                log=run.log_step,
                save=run.save,
                evaluate=run.evaluate,
                met_broken=run.met_broken,
                end_step=end_step,
            )
        if start == schedules.total:  # the process may have died between the last checkpoint and the product
            run.export(start)
        if cfg.run.pictures:
            draw_pictures(folder, cfg, monitor[1] if monitor else source)
        log.say(f"done: {folder} (model.safetensors, metrics.jsonl, pictures)")
    except (UserError, torch.OutOfMemoryError) as caught:
        error = out_of_memory(cfg) if isinstance(caught, torch.OutOfMemoryError) else caught
        last = checkpoint.checkpoints(folder / "checkpoints")
        reason = f"{error}. The last good checkpoint is {last[-1]}" if last else str(error)
        log.note(f"stopped: {reason}")
        raise UserError(reason) from caught
    finally:
        log.close()


@dataclass
class Run:
    """What the loop is handed: how this run logs, saves and evaluates."""

    cfg: Config
    folder: Path
    source: Source
    method: StudentTeacher
    optimizer: torch.optim.AdamW
    log: RunLog
    monitor: tuple[Source, Source] | None  # labelled images for k-NN: those that vote, those that are asked
    device: torch.device
    broken: set[int]
    steps: int  # of the whole run

    def __post_init__(self) -> None:
        self.log_k = math.log(self.cfg.head.prototypes)
        self.alarms = Alarms(self.log_k, patience=max(20 * self.cfg.run.log_every, self.steps // 10))

    def log_step(self, line: dict[str, float], targets: list[Targets]) -> None:
        line |= figures(targets)
        line |= {"kl": line["dino"] - line["teacher_entropy"], "log_k": self.log_k}
        line |= {"centre_norm": self.method.centre.norm().item()} if self.cfg.loss.targets == "centring" else {}
        self.log.line(line)
        for alarm in self.alarms.look(line):
            self.log.say(f"ALARM at step {line['step']}: {alarm}")

    def save(self, step: int) -> None:
        state = checkpoint.training_state(self.method, self.optimizer, step, sorted(self.broken))
        checkpoint.save(self.folder / "checkpoints", state, self.cfg.run.keep)
        self.export(step)

    def export(self, step: int) -> None:
        info = {"method": self.cfg.method, "step": step, "images": len(self.source), "config": to_dict(self.cfg)}
        save_encoder(self.method.product, self.folder, info)

    def evaluate(self, step: int) -> None:
        if not self.monitor:
            return
        votes, asked = self.monitor
        encoder = Encoder(self.method.product)
        size = self.cfg.eval.size or self.cfg.views.global_size
        loaders = workers(self.cfg, self.device)
        result = knn.evaluate(encoder, votes, asked, size, self.cfg.eval.k, self.device, loaders, progress=False)
        self.log.line({"step": step, **result})
        self.log.say(f"step {step}: k-NN {result['knn']:.1%} on {result['knn_test_images']} images")

    def evaluation_missed(self, step: int, schedules: Schedules) -> bool:
        """Whether the process died between the checkpoint of this step and its evaluation."""
        every = schedules.steps(self.cfg.eval.every, "eval.every")
        due = self.monitor and every and (step % every == 0 or step == schedules.total)
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return bool(due) and not any("knn" in row and row["step"] == step for row in map(json.loads, lines))

    def met_broken(self, images: list[tuple[int, str]]) -> None:
        for index, reason in images:
            if index in self.broken:
                continue
            self.broken.add(index)
            self.log.say(
                f"broken image {len(self.broken)}, replaced by another draw: {location(self.source.paths[index])}: {reason}"
            )
        if len(self.broken) > self.cfg.data.max_broken * len(self.source):
            raise UserError(
                f"{len(self.broken)} of {len(self.source)} images cannot be read, more than data.max_broken="
                f"{self.cfg.data.max_broken:g} of them; remove those named in {self.folder / 'log.txt'}, or raise the option"
            )


def hold(folder: Path) -> IO:
    """Keep other processes from training in the same folder until the file is closed or the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / "lock").open("w")
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, these locks do not pass to loader processes
    except ImportError:  # Windows
        pass
    except OSError as error:
        raise UserError(
            f"{folder}: another process trains in this folder; wait for it, or use another run.dir"
        ) from error
    return file


def check_run(folder: Path, cfg: Config, resume: bool) -> list[Path]:
    """The whole checkpoints in the run's folder, oldest first; refuses a run with other options."""
    places = checkpoint.checkpoints(folder / "checkpoints")
    if resume and not places:
        raise UserError(f"{folder}: no checkpoint to resume from; start the run without --resume")
    if places:
        before, now = flatten(to_dict(load_config(folder / "config.yaml"))), flatten(to_dict(cfg))
        changed = [k for k in now if before[k] != now[k] and not k.startswith(MAY_CHANGE)]
        if changed:
            differences = ", ".join(f"{k}={now[k]} (was {before[k]})" for k in changed)
            raise UserError(
                f"{folder} holds a run with other options: {differences}. Give the same, or another run.dir"
            )
    return places


def open_data(cfg: Config, cache: Path | None) -> Source:
    d = cfg.data
    if not d.path:
        raise UserError("data.path is not set: name a folder of images, a text file of paths or a CSV, data.path=DIR")
    return open_source(d.path, d.images, d.filename_column, d.label_column, cache=cache)


def describe_run(folder: Path, cfg: Config, source: Source, resumed: bool) -> None:
    """Write config.yaml and environment.json; refuses to go on with other images than the run began with."""
    path = folder / "environment.json"
    facts = {"images": len(source), "names_crc32": crc32(source), "data": source.name, **environment()}
    if not resumed:
        save_config(cfg, folder / "config.yaml")
        write_whole(path, (json.dumps(facts, indent=2) + "\n").encode())
        return
    try:
        began = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); the run's data cannot be checked") from error
    for key, what in (("images", "images"), ("names_crc32", "as the checksum of their names")):
        if began.get(key) != facts[key]:
            raise UserError(
                f"{source.name} has {facts[key]} {what}, the run in {folder} began with {began.get(key)}; use another run.dir"
            )


def crc32(source: Source) -> int:
    """Checksum of the images' names below their common folder, in order: the same after the folder has moved."""
    places = [location.replace("://", ":/") for location in source.paths]  # as commonpath would have it, in an address
    root = os.path.commonpath({os.path.dirname(place.split("\0")[0]) for place in places})
    return zlib.crc32("\n".join(place[len(root) :] for place in places).encode(errors="surrogateescape"))


def monitor_sources(cfg: Config, source: Source, say: Callable[[str], None]) -> tuple[Source, Source] | None:
    """The labelled images that vote and those that are asked, for k-NN while training; none without labels."""
    if parse_duration(cfg.eval.every, "eval.every")[0] == 0:
        return None
    if bool(cfg.eval.train) != bool(cfg.eval.test):
        raise UserError("eval.train and eval.test go together: set both or neither")
    if cfg.eval.train:
        columns = ("", cfg.data.filename_column, cfg.data.label_column)
        votes, asked = (
            open_source(path, *columns, need_labels=True, option=option)
            for path, option in ((cfg.eval.train, "eval.train"), (cfg.eval.test, "eval.test"))
        )
    elif source.labels is not None and len(source.classes) > 1:
        try:
            votes, asked = stratified_split(source, 0.2, seed=0)
        except UserError as error:  # training needs no labels, so they must not stop it
            say(f"no k-NN while training: {error}; name eval.train and eval.test")
            return None
    else:
        return None
    return subset(votes, cfg.eval.max_images, seed=0), subset(asked, cfg.eval.max_images, seed=0)


def assemble(cfg: Config, source: Source) -> tuple[Schedules, torch.device, StudentTeacher, torch.optim.AdamW]:
    """What is trained and what it is trained with, as it is before the first step."""
    schedules = Schedules(cfg, len(source))
    device = choose_device(cfg.run.device)
    torch.manual_seed(cfg.seed)
    try:
        method = build_method(cfg, device)
        return schedules, device, method, make_optimizer(method.student, cfg.optim)
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of memory on {device}: the model alone is too large, set a smaller model.size") from error


def build_method(cfg: Config, device: torch.device) -> StudentTeacher:
    vit = ViT(cfg.model, cfg.views.global_size, choose_backend(cfg.run.attention, device))
    method = METHODS[cfg.method](vit, vit.dim, cfg).to(device)
    if device.type == "cpu":
        keep_memory()
    if cfg.run.compile:
        compile_blocks(method, device)
    return method


def choose_device(name: str, option: str = "run.device=") -> torch.device:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("dinolab trains in one process; start it without torchrun")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("one of auto, cpu, cuda, mps")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{option}{name}: not to be had here ({str(error).splitlines()[0]})") from error
    return device


def choose_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
        precision = "bf16" if fast else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def workers(cfg: Config, device: torch.device) -> int:
    """On a GPU the cores load images; on the CPU most of them compute."""
    if cfg.run.workers >= 0:
        return cfg.run.workers
    cores = os.cpu_count() or 1
    return min(16, cores) if device.type != "cpu" else max(1, cores // 4)


def micro_batch_sizes(batch_size: int) -> list[int]:
    """Sizes of run.micro_batch that divide the batch and suit the hardware, smallest first; the last is the whole batch."""
    handy = [n for n in range(1, batch_size) if batch_size % n == 0 and (n % 8 == 0 or n in (1, 2, 4))]
    return [*handy, batch_size]


def out_of_memory(cfg: Config) -> UserError:
    """What to set after a step that did not fit."""
    now = cfg.run.micro_batch or cfg.optim.batch_size
    smaller = [n for n in micro_batch_sizes(cfg.optim.batch_size) if 2 <= n <= now / 2]
    way_out = f"run.micro_batch={smaller[-1]} or less" if smaller else "a smaller model.size or head.prototypes"
    return UserError(f"out of memory on the GPU with {now} images at a time: set {way_out}")


def open_batches(
    cfg: Config, source: Source, start: int, stop: int, device: torch.device, say: Callable[[str], None]
) -> Iterator[list[Views] | list[Photos]]:
    """The run's batches, with crops or without, as run.device_views has it."""
    args = source, cfg, start, stop, workers(cfg, device), device.type == "cuda"
    if cfg.run.device_views == "auto" and device.type != "cpu":
        return adaptive_batches(*args, say)
    return photo_batches(*args) if cfg.run.device_views == "always" else batches(*args)


def describe(cfg: Config, source: Source, schedules: Schedules, method: StudentTeacher, device: torch.device) -> str:
    vit = method.product
    trained = sum(p.numel() for p in method.student.parameters())
    return (
        f"{cfg.method}, ViT of {len(vit.blocks)} blocks of {vit.dim}, patch {vit.patch_size}, "
        f"{trained / 1e6:.1f} M trained parameters with the heads, "
        f"on {len(source):,} images of {source.name}: {schedules.total:,} steps of {cfg.optim.batch_size} "
        f"({schedules.total / schedules.steps_per_epoch:.1f} epochs), {device}"
    )


def draw_pictures(folder: Path, cfg: Config, source: Source, images: int = 6) -> None:
    """Curves of the run, attention and PCA maps of a few images, into the run's folder."""
    plot_metrics(folder / "metrics.jsonl", folder / "curves.png")
    size = cfg.eval.size or cfg.views.global_size
    views: list[torch.Tensor] = []
    for path in subset(source, 4 * images, seed=0).paths:
        try:
            views.append(torch.as_tensor(eval_view(read_image(path), size)))
        except BrokenImage:
            continue
    if not views:
        return
    encoder = load(folder)
    sheets: list[tuple[Callable, str]] = [(attention_sheet, "attention.png"), (pca_sheet, "pca.png")]
    for sheet, name in sheets:
        sheet(encoder, views[:images], folder / name)
