"""From a few steps of a run to what all of it will take."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from dinolab.data.loader import WAITING
from dinolab.data.sources import subset
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.knn import knn
from dinolab.features.extract import extract
from dinolab.models.encoder import Encoder
from dinolab.options import Config, Views
from dinolab.parallel import refuse_many
from dinolab.plan.memory import Memory, measure_memory
from dinolab.plan.pace import Pace, Reading, measure_pace, measure_reading, time_step
from dinolab.plan.rig import Rig
from dinolab.precision import choose_precision
from dinolab.recipes import validate
from dinolab.runs.build import describe, monitor_sources, open_data, out_of_memory
from dinolab.training import checkpoint
from dinolab.training.schedules import Schedules, plan_phases
from dinolab.weights.load import save_encoder

EVALUATED = 64  # images that each loader process gets in the smaller of two evaluations


@dataclass(frozen=True)
class Plan:
    """What was measured of a phase of a run, and what follows. Seconds, unless it says otherwise."""

    cfg: Config
    run: str  # in a line
    device: str  # its type
    cores: int
    workers: int
    device_views: bool  # whether the device makes the crops, in what was measured

    pace: Pace
    reading: Reading
    needed_side: int  # pixels, short side of an image of which no crop has to be enlarged
    bf16_step_seconds: float | None  # as pace.step_seconds, where the device could compute in bf16 and is told not to
    memory: Memory | None  # not where the system does not tell, nor, on a CPU, of the phase that needs less

    steps: int
    seconds_per_step: float  # with the log's share
    steps_seconds: float  # all steps
    evaluations: int
    evaluation_seconds: float  # each
    checkpoints: int
    checkpoint_seconds: float  # each
    phase_seconds: float
    total_seconds: float  # with those of `then`
    then: "Plan | None" = None  # the phase after this one: `highres`


def plan(cfg: Config, steps: int = 20, say: Callable[[str], None] = lambda text: None) -> Plan:
    """Measure `steps` real steps and what goes with them; leaves nothing behind, in the run's folder or elsewhere.

    say: takes a line on what is going on, now and then.

    Raises:
        UserError: as `train`, and if a step does not fit into memory.
    """
    if steps < 1:
        raise UserError("a plan needs 1 step or more to measure")
    refuse_many("dinolab plan")
    validate(cfg)
    source = open_data(cfg, cache=None)
    phases = plan_phases(cfg, len(source))
    largest = max(phases, key=lambda phase: pixels(phase.cfg))
    side = max(needed_side(phase.cfg.views) for phase in phases)
    made: dict[Schedules, Plan] = {}
    for phase in sorted(phases, key=lambda phase: phase is not largest):  # the largest first
        if len(phases) > 1:
            say(f"with crops of {phase.cfg.views.global_size} pixels")
        try:
            with TemporaryDirectory(
                prefix="dinolab-plan-", dir=nearest_folder(Path(cfg.run.dir or "runs").absolute().parent)
            ) as folder:
                made[phase] = measure(Rig(phase, source), steps, Path(folder), say, side, phase is largest)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(phase.cfg) from error
    first, *rest = [made[phase] for phase in phases]
    return replace(first, then=rest[0], total_seconds=first.total_seconds + rest[0].total_seconds) if rest else first


def pixels(cfg: Config) -> int:
    """Of all crops in a forward: the phase with more of them needs more memory."""
    views = cfg.views
    each = 2 * views.global_size**2 + views.locals * views.local_size**2
    return (cfg.run.micro_batch or cfg.optim.batch_size) * each


def nearest_folder(path: Path) -> Path:
    """The folder itself or the first above it that exists, so on the same disk."""
    return next(folder for folder in [path, *path.parents] if folder.is_dir())


def measure(rig: Rig, steps: int, folder: Path, say: Callable[[str], None], side: int, largest: bool) -> Plan:
    cfg, phase = rig.cfg, rig.phase
    monitor = monitor_sources(cfg, rig.source, say)
    reading, memory, pace = measure_steps(rig, steps, say, largest)
    if cfg.run.device_views == "auto" and rig.device.type != "cpu" and pace.data_wait > WAITING:
        say("once more, with crops made on the device, as the run will do")
        rig.device_views = True
        reading, memory, pace = measure_steps(rig, steps, say, largest)
    bf16_step_seconds = None
    if rig.autocast is None and choose_precision("auto", rig.device):
        rig.autocast = torch.bfloat16
        bf16_step_seconds = time_step(rig, next(rig.batches(0)), steps)

    say("an evaluation and a checkpoint")
    eval_every = phase.steps(cfg.eval.every, "eval.every")
    save_every = phase.steps(cfg.run.save_every, "run.save_every") or phase.total
    evaluations = (phase.first == 0) + times_due(phase, eval_every) if monitor else 0  # one before the first step
    evaluation_seconds = time_evaluation(rig, *monitor) if monitor else 0.0
    checkpoints = times_due(phase, save_every)
    checkpoint_seconds = time_checkpoint(rig, folder)

    seconds_per_step = pace.together_seconds + pace.log_seconds / cfg.run.log_every
    steps_seconds = phase.total * seconds_per_step
    phase_seconds = steps_seconds + evaluations * evaluation_seconds + checkpoints * checkpoint_seconds
    return Plan(
        cfg=cfg,
        run=describe(cfg, rig.source, phase, rig.method, rig.device),
        device=rig.device.type,
        cores=rig.cores,
        workers=rig.workers,
        device_views=rig.device_views,
        pace=pace,
        reading=reading,
        needed_side=side,
        bf16_step_seconds=bf16_step_seconds,
        memory=memory,
        steps=phase.total,
        seconds_per_step=seconds_per_step,
        steps_seconds=steps_seconds,
        evaluations=evaluations,
        evaluation_seconds=evaluation_seconds,
        checkpoints=checkpoints,
        checkpoint_seconds=checkpoint_seconds,
        phase_seconds=phase_seconds,
        total_seconds=phase_seconds,
    )


def times_due(phase: Schedules, every: int) -> int:
    """How often in the phase: at multiples of so many steps of the run, and after the last."""
    return math.ceil(phase.last / every) - phase.first // every


def measure_steps(
    rig: Rig, steps: int, say: Callable[[str], None], largest: bool
) -> tuple[Reading, Memory | None, Pace]:
    """Memory first: its small steps tell in time if the whole one will not fit. On a CPU only in the largest phase, which
    comes first: its process keeps what it has once had.
    """
    reading, memory = measure_reading(rig), None
    if largest or rig.device.type != "cpu":
        say("memory: steps of growing size")
        memory = measure_memory(rig, reading.seconds)
    say("speed: the step alone, the loader alone, both together")
    return reading, memory, measure_pace(rig, steps)


def time_evaluation(rig: Rig, votes: Source, asked: Source) -> float:
    """Seconds of a k-NN evaluation of `asked` by `votes`.

    Features of two small samples give what an image takes and what starting takes; the vote is done at its true size.
    """
    encoder, device, size = Encoder(rig.method.product), rig.device, rig.cfg.eval.size or rig.cfg.views.global_size

    def time_features(images: int) -> tuple[int, float]:
        sample = subset(votes, images, seed=0)
        began = time.perf_counter()
        extract(encoder, sample, size, device=device, workers=rig.workers, progress=False)
        return len(sample), time.perf_counter() - began

    few = EVALUATED * max(1, rig.workers)
    time_features(few)  # warms up
    (n0, seconds0), (n1, seconds1) = time_features(few), time_features(4 * few)
    per_image = max(0.0, seconds1 - seconds0) / (n1 - n0) if n1 > n0 else seconds1 / n1
    start = max(0.0, seconds1 - per_image * n1)

    features = torch.randn(len(votes), encoder.dim), torch.randn(len(asked), encoder.dim, device=device)
    began = time.perf_counter()
    knn(features[0], torch.as_tensor(votes.labels), features[1], torch.zeros(len(asked)), rig.cfg.eval.k)
    return 2 * start + per_image * (len(votes) + len(asked)) + time.perf_counter() - began


def time_checkpoint(rig: Rig, folder: Path) -> float:
    """Seconds that training waits for a checkpoint and the product; the checkpoint is then written beside it."""
    checkpoints = checkpoint.Checkpoints(folder, keep=1)
    began = time.perf_counter()
    checkpoints.save(checkpoint.training_state(rig.method, rig.optimizer, 0, []))
    save_encoder(rig.method.product, folder, {})
    waited = time.perf_counter() - began
    checkpoints.finish()
    return waited


def needed_side(views: Views) -> int:
    """Short side in pixels of images of which no square crop has to be enlarged."""
    sides = [views.global_size / math.sqrt(views.global_scale[0])] if views.global_scale[0] else []
    if views.locals and views.local_scale[0]:
        sides.append(views.local_size / math.sqrt(views.local_scale[0]))
    return math.ceil(max(sides, default=0))
