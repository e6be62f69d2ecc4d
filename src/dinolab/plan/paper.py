"""A forecast on paper, for a machine that is not here: from counted operations and data sheets, with every assumption named."""

from dataclasses import dataclass

from dinolab.data.samples import micro_batch
from dinolab.errors import UserError
from dinolab.fields import AUTO
from dinolab.options import Config
from dinolab.plan.devices import parse_machine
from dinolab.plan.shapes import Shapes, step_shapes
from dinolab.plan.text import duration, gigabytes, line
from dinolab.recipes import validate
from dinolab.runs.build import micro_batch_sizes, open_data
from dinolab.runs.fit import HEADROOM, largest_that_fits, with_micro_batch
from dinolab.training.phases import Phase, plan_phases

# Share of a device's FLOP/s that a whole step reaches. Where it comes from: DINOv2's ViT-g was trained for 625,000 steps of 3,072 images
# (arXiv 2304.07193, 2 x 224 + 8 x 98 pixels, stochastic depth 0.4) in 22,000 hours of an A100 (its model card). By the count in
# shapes.py an image takes 5.1e12 operations, so an A100 did 124e12 a second, 40 % of 312e12. Smaller networks reach less: rounded down.
USE = 0.35
UPDATE = 9  # times four bytes that an update moves for each parameter: weight, gradient, two moments and the teacher, read and written
GREW = 1.6  # measured over counted bytes of an image, in small_10k on a CPU: docs/plan.md
OVERHEAD = 1e9  # bytes that CUDA and its libraries take beside the tensors; a guess


@dataclass(frozen=True)
class PaperPhase:
    """The forecast of one phase. Times are seconds."""

    size: int  # side of the global crops, in pixels
    steps: int
    batch: int
    micro_batch: int  # of each device
    shapes: Shapes
    step_seconds: float
    seconds: float
    split_bytes: float  # on each device, with run.sharding=full
    whole_bytes: float  # with run.sharding=none
    largest: int  # micro-batch that should fit with run.sharding=full; 0 if none should


@dataclass(frozen=True)
class Paper:
    """A forecast on paper of a whole run."""

    cfg: Config
    devices: int
    device: str
    memory: float  # bytes of a device
    precision: str
    use: float
    phases: list[PaperPhase]

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)


def plan_on_paper(cfg: Config, on: str, images: int = 0, use: float = USE) -> Paper:
    """Forecast a run on a machine that is not here; nothing is computed but shapes.

    Args:
        on: number and name of its devices, such as "8xH100".
        images: number of training images; 0 counts those of data.path.
        use: share of the devices' FLOP/s that a step reaches.

    Raises:
        UserError: an unknown device; a batch that its devices cannot share; no images.
    """
    number, name, device = parse_machine(on)
    validate(cfg)
    if not images and not cfg.data.path:
        raise UserError(
            "on= needs the number of training images: set data.path=DIR, or images=N for images that are not here"
        )
    images = images or len(open_data(cfg, cache=None))
    bf16 = cfg.run.precision != "fp32" and device.bf16 is not None
    speed = number * use * (device.bf16 if bf16 and device.bf16 else device.fp32)

    def forecast(phase: Phase) -> PaperPhase:
        auto = phase.cfg.run.micro_batch == AUTO
        share = micro_batch(with_micro_batch(phase.cfg, 0), number)
        shapes = step_shapes(phase.cfg, bf16)
        budget, sizes = HEADROOM * device.memory - OVERHEAD, micro_batch_sizes(share)
        fits = largest_that_fits(shapes.bytes(share, 0, number), shapes.activations, budget, sizes)
        micro = (fits or sizes[0]) if auto else micro_batch(phase.cfg, number)
        update = 4 * UPDATE * shapes.parameters / number / device.bandwidth
        seconds = phase.cfg.optim.batch_size * shapes.flops / speed + update
        return PaperPhase(
            size=phase.cfg.views.global_size,
            steps=phase.total,
            batch=phase.cfg.optim.batch_size,
            micro_batch=micro,
            shapes=shapes,
            step_seconds=seconds,
            seconds=phase.total * seconds,
            split_bytes=shapes.bytes(share, micro, number) + OVERHEAD,
            whole_bytes=shapes.bytes(share, micro) + OVERHEAD,
            largest=fits,
        )

    phases = [forecast(phase) for phase in plan_phases(cfg, images)]
    return Paper(cfg, number, name, device.memory, "bf16" if bf16 else "fp32", use, phases)


def paper_words(paper: Paper) -> str:
    """Return the forecast as text; the assumptions are its last lines."""
    machine = f"{paper.devices} x {paper.device}"
    lines = [
        f"FORECAST ON PAPER for {machine}: nothing was measured there",
        line("Time", f"{duration(paper.seconds)}, {paper.devices * paper.seconds / 3600:.3g} GPU hours"),
    ]
    for phase in paper.phases:
        lines += phase_words(paper, phase)
    assumed = [
        f"a step reaches {paper.use:.0%} of the data sheet's {paper.precision} FLOP/s (use=); the usual {USE:.0%} comes from the "
        "published GPU hours of DINOv2's ViT-g (40%), and narrower networks may reach less",
        "images arrive in time, GPUs do not wait for each other; evaluations and checkpoints are not included",
        f"memory is that of the tensors alone and {gigabytes(OVERHEAD)} for CUDA; a process on a CPU took up to {GREW} times as much",
    ]
    return "\n".join([*lines, *(line("Assumed" if n == 0 else "", text) for n, text in enumerate(assumed))])


def phase_words(paper: Paper, phase: PaperPhase) -> list[str]:
    """Return the lines on one phase."""
    shapes, option = phase.shapes, "highres.micro_batch" if phase is not paper.phases[0] else "run.micro_batch"
    memory = (
        f"{gigabytes(phase.split_bytes)} on each GPU with run.sharding=full, {gigabytes(phase.whole_bytes)} with none, "
        f"of {paper.memory / 1e9:.0f} GB, in micro-batches of {phase.micro_batch}"
    )
    fits = f"{option}={phase.largest} is the largest that should fit" if phase.largest else "no micro-batch should fit"
    each = f"{shapes.parameters / 1e6:.1f} M trained parameters, {gigabytes(shapes.state)} with gradients, moments and teacher"
    return [
        line("Steps", f"{phase.steps:,} x {phase.step_seconds:.3g} s, {phase.batch} images each, {phase.size} pixels"),
        line("Speed", f"{phase.batch / phase.step_seconds:,.0f} images/s, which the loaders must deliver"),
        line(
            "Work", f"{shapes.flops / 1e9:,.4g} GFLOP an image, {phase.batch * shapes.flops / 1e12:,.4g} TFLOP a step"
        ),
        line("Memory", memory),
        line("", f"{each}; {shapes.activations / 1e6:,.0f} MB for each image of a micro-batch"),
        line("", f"{fits}, with a tenth of the memory left free"),
    ]
