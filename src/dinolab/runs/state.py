"""The state of a training: made anew, restored from a checkpoint, or carried into the next phase."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from dinolab import parallel
from dinolab.data.loader import batches
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.methods.base import Method
from dinolab.runs.build import build_method, needs_of, workers
from dinolab.training import checkpoint
from dinolab.training.optim import make_optimizer
from dinolab.training.phases import Phase
from dinolab.weights.initial import resized


@dataclass
class State:
    """Everything that training changes, and the step it has reached."""

    phase: Phase  # the one it is in
    method: Method
    optimizer: torch.optim.Optimizer
    step: int = 0  # of the run, the next one
    broken: set[int] = field(default_factory=set)  # unreadable images met so far
    messages: list[str] = field(default_factory=list)  # for the log: how it came about


def begin(phase: Phase, source: Source, device: torch.device) -> State:
    """A new run."""
    cfg = phase.cfg
    method = build_method(cfg, device, source)
    method.see_images(source, workers(cfg, device))
    method.prepare(batches(source, cfg, 0, phase.last, workers(cfg, device), needs=needs_of(cfg)))
    longer = ", ".join(f"{option}={text}" for option, text in phase.longer.items())
    cut = (
        f"longer than the whole run of {phase.total} steps, and cut to it: {longer}; give shorter ones, for example 10%"
    )
    messages = [cut] if longer else []
    return State(phase, method, make_optimizer(method.student, cfg.optim, phase.frozen), messages=messages)


def restore(places: list[Path], phases: list[Phase], source: Source, device: torch.device) -> State:
    """The newest checkpoint that can be read; those that cannot are renamed."""
    unreadable: dict[Path, str] = {}
    for place in reversed(places):
        step = checkpoint.step_of(place)
        phase = next(phase for phase in phases if step <= phase.last)
        method = build_method(phase.cfg, device, source, fresh=False)
        state = State(phase, method, make_optimizer(method.student, phase.cfg.optim, phase.frozen), step)
        try:
            state.broken = set(checkpoint.load(place, method, state.optimizer))
        except UserError as error:
            unreadable[place] = str(error)
            continue
        for bad, reason in unreadable.items():
            aside = checkpoint.set_aside(bad) if parallel.rank() == 0 else bad
            state.messages.append(f"{reason}; it is now {aside.name}, and an earlier one is used")
        method.see_images(source, workers(phase.cfg, device))
        state.messages.append(f"resumed from {place}, step {step} of {phases[-1].last}")
        return state
    raise UserError("; ".join(unreadable.values()) + "; delete them to start the run anew")


def enter(state: State, phase: Phase, source: Source, device: torch.device) -> None:
    """Go on in the next phase: the same weights, positions resampled to the new size of crops; a new optimizer."""
    weights = parallel.whole(state.method.state_dict())
    cfg = phase.cfg
    weights = resized(weights, cfg.model, cfg.views.global_size)
    state.method = build_method(cfg, device, source, fresh=False, state=weights)
    state.method.see_images(source, workers(cfg, device))
    state.optimizer = make_optimizer(state.method.student, cfg.optim, phase.frozen)
    state.phase = phase
