"""A forecast of a whole run from a few of its steps."""

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
from dinolab.models.encoder import BackboneEncoder
from dinolab.options import Config, Views
from dinolab.parallel import refuse_many
from dinolab.plan.memory import Memory, measure_memory
from dinolab.plan.pace import Pace, Reading, measure_pace, measure_reading, time_step
from dinolab.precision import choose_precision
from dinolab.recipes import validate
from dinolab.runs.build import describe, fitting, monitor_sources, open_data
from dinolab.runs.fit import check_micro_batch, settle_micro_batch
from dinolab.runs.rig import Rig
from dinolab.training import checkpoint
from dinolab.training.phases import Phase, plan_phases
from dinolab.weights.load import save_encoder

EVALUATED = 64  # images for each loader process in the smaller of two timed evaluations


@dataclass(frozen=True)
class Plan:
    """The measurements of a phase of a run, and the forecast from them. Times are seconds."""

    cfg: Config
    run: str  # a line that describes it
    device: str  # cpu, cuda or mps
    cores: int
    workers: int
    device_views: bool  # whether the device made the crops in these measurements

    pace: Pace
    reading: Reading
    needed_side: int  # short side in pixels from which no crop of an image has to be enlarged
    bf16_step_seconds: float | None  # as pace.step_seconds; None where bf16 is used already or the device lacks it
    memory: Memory | None  # None where it cannot be measured, and on a CPU for the phase that needs less

    steps: int
    seconds_per_step: float  # including its share of the log
    steps_seconds: float  # all steps
    evaluations: int
    evaluation_seconds: float  # each
    checkpoints: int
    checkpoint_seconds: float  # each
    phase_seconds: float
    total_seconds: float  # including those of the phase `then`
    then: "Plan | None" = None  # the next phase: `highres`


def plan(cfg: Config, steps: int = 20, say: Callable[[str], None] = lambda text: None) -> Plan:
    """Measure real steps of a run, an evaluation and a checkpoint, and forecast the whole run. No file is left anywhere.

    Args:
        cfg: of the run.
        steps: number of steps to measure.
        say: called with a line on what is being measured, now and then.

    Raises:
        UserError: for the same reasons as in `train`, and if a step does not fit into memory.
    """
    if steps < 1:
        raise UserError(f"steps={steps}: a plan needs 1 step or more to measure")
    refuse_many("dinolab plan")
    validate(cfg)
    source = open_data(cfg, cache=None)
    check_micro_batch(cfg, source)
    cfg, said = settle_micro_batch(cfg, source)
    for text in said:
        say(text)
    phases = plan_phases(cfg, len(source))
    largest = max(phases, key=lambda phase: pixels(phase.cfg))
    side = max(needed_side(phase.cfg.views) for phase in phases)
    made: dict[Phase, Plan] = {}
    for phase in sorted(phases, key=lambda phase: phase is not largest):  # the largest first
        if len(phases) > 1:
            say(f"with crops of {phase.cfg.views.global_size} pixels")
        beside = nearest_folder(Path(cfg.run.dir or "runs").absolute().parent)
        with fitting(phase.cfg), TemporaryDirectory(prefix="dinolab-plan-", dir=beside) as folder:
            made[phase] = measure(Rig(phase, source), steps, Path(folder), say, side, phase is largest)
    first, *rest = [made[phase] for phase in phases]
    return replace(first, then=rest[0], total_seconds=first.total_seconds + rest[0].total_seconds) if rest else first


def pixels(cfg: Config) -> int:
    """Count the pixels of all crops in a forward: the phase with more pixels needs more memory."""
    views = cfg.views
    each = 2 * views.global_size**2 + views.locals * views.local_size**2
    return (cfg.run.micro_batch or cfg.optim.batch_size) * each


def nearest_folder(path: Path) -> Path:
    """Return the folder itself, or the first one above it that exists: it is on the same disk."""
    return next(folder for folder in [path, *path.parents] if folder.is_dir())


def measure(rig: Rig, steps: int, folder: Path, say: Callable[[str], None], side: int, largest: bool) -> Plan:
    """Measure one phase.

    Args:
        folder: for a checkpoint.
        side: `needed_side` of the run.
        largest: whether this is the phase that needs the most memory.
    """
    cfg, phase = rig.cfg, rig.phase
    monitor = monitor_sources(cfg, rig.source, say)
    reading, memory, pace = measure_steps(rig, steps, say, largest)
    movable = cfg.run.device_views == "auto" and rig.device.type != "cpu" and not cfg.views.distorted
    if movable and pace.data_wait > WAITING:
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


def times_due(phase: Phase, every: int) -> int:
    """Count how often something is done in a phase: every so many steps of the run, and after the phase's last step."""
    return math.ceil(phase.last / every) - phase.first // every


def measure_steps(
    rig: Rig, steps: int, say: Callable[[str], None], largest: bool
) -> tuple[Reading, Memory | None, Pace]:
    """Measure loading, memory and speed.

    Memory comes first: its small steps show in time whether the whole step fits. On a CPU it is measured only in the largest phase,
    which comes first, since a process keeps memory that it once had.
    """
    reading, memory = measure_reading(rig), None
    if largest or rig.device.type != "cpu":
        say("memory: steps of growing size")
        memory = measure_memory(rig, reading.seconds)
    say("speed: the step alone, the loader alone, both together")
    return reading, memory, measure_pace(rig, steps)


def time_evaluation(rig: Rig, reference: Source, query: Source) -> float:
    """Estimate the seconds of one evaluation while training: k-NN of the query images among the reference images.

    Extracting the features of two small samples gives the time of an image and the time to start; the search itself is done at its
    true size.
    """
    encoder, device = BackboneEncoder(rig.method.product), rig.device
    size = rig.cfg.eval.size or rig.cfg.views.global_size

    def time_features(images: int) -> tuple[int, float]:
        sample = subset(reference, images, seed=0)
        began = time.perf_counter()
        extract(
            encoder, sample, size, device=device, workers=rig.workers, progress=False, precision=rig.cfg.run.precision
        )
        return len(sample), time.perf_counter() - began

    few = EVALUATED * max(1, rig.workers)
    time_features(few)  # a warm-up
    (n0, seconds0), (n1, seconds1) = time_features(few), time_features(4 * few)
    per_image = max(0.0, seconds1 - seconds0) / (n1 - n0) if n1 > n0 else seconds1 / n1
    start = max(0.0, seconds1 - per_image * n1)

    features = torch.randn(len(reference), encoder.dim), torch.randn(len(query), encoder.dim, device=device)
    began = time.perf_counter()
    knn(features[0], torch.as_tensor(reference.labels), features[1], torch.zeros(len(query)), rig.cfg.eval.k)
    return 2 * start + per_image * (len(reference) + len(query)) + time.perf_counter() - began


def time_checkpoint(rig: Rig, folder: Path) -> float:
    """Measure the seconds that training waits for a checkpoint; most of it is written while training goes on."""
    checkpoints = checkpoint.Checkpoints(folder, keep=1)
    began = time.perf_counter()
    checkpoints.save(checkpoint.training_state(rig.method, rig.optimizer, 0, []))
    save_encoder(rig.method.product, folder, {})
    waited = time.perf_counter() - began
    checkpoints.finish()
    return waited


def needed_side(views: Views) -> int:
    """Return the short side in pixels from which no square crop of an image has to be enlarged."""
    sides = [views.global_size / math.sqrt(views.global_scale[0])] if views.global_scale[0] else []
    if views.locals and views.local_scale[0]:
        sides.append(views.local_size / math.sqrt(views.local_scale[0]))
    return math.ceil(max(sides, default=0))
