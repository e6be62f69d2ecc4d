"""One run from configuration to pictures."""

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import torch

from dinolab import parallel
from dinolab.data.types import Source
from dinolab.errors import OUT_OF_MEMORY, UserError, lacking
from dinolab.options import Config
from dinolab.recipes import load_config, load_saved_config, validate
from dinolab.rundir import RunFolder
from dinolab.runs.build import all_alike, describe, fitting, monitor_sources, open_data, out_of_memory
from dinolab.runs.fit import check_micro_batch, settle_micro_batch
from dinolab.runs.folder import alone_in_process, check_run, describe_run, held_for_training
from dinolab.runs.pictures import draw_pictures
from dinolab.runs.run import Run
from dinolab.runs.state import begin, restore
from dinolab.training import checkpoint
from dinolab.training.log import NoLog, RunLog
from dinolab.training.loop import StopSignals
from dinolab.training.phases import Phase, plan_phases
from dinolab.training.profile import profiled


def train(config: Config | str | Path | None = None, *words: str, resume: bool = False) -> Path:
    """Train, or go on where an earlier call with the same run.dir stopped; returns the run's folder.

    Started by torchrun, in several processes, each call is a part of the same run.

    Args:
        config: a YAML file or the name of a shipped recipe; or a whole Config.
        words: `key=value`, over the recipe's options.
        resume: refuse to start a new run.

    Raises:
        UserError: a mistake in the options or the data, too little memory, or another training in this process.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    if isinstance(config, Config):
        cfg = config
        validate(cfg)
    else:
        cfg = load_config(config, words)
    folder = Path(cfg.run.dir or Path("runs") / cfg.method)
    if resume and not folder.is_dir():
        raise UserError(f"{folder}: no such run to resume")
    device = parallel.choose_device(cfg.run.device)
    with (
        alone_in_process(),
        parallel.processes(device),
        held_for_training(folder) if parallel.rank() == 0 else nullcontext(),
    ):
        carry_out(cfg, RunFolder(folder), device, resume)
    return folder


def carry_out(cfg: Config, folder: RunFolder, device: torch.device, resume: bool) -> None:
    """The run itself, in a folder that no other run trains in."""
    cfg, source, monitor, phases, places, said = prepare(cfg, folder, resume)
    with fitting(cfg):
        state = restore(places, phases, source, device) if places else begin(phases[0], source, device)

    log = RunLog(folder, cfg, phases[-1].last, state.step) if parallel.rank() == 0 else NoLog()
    run = Run(cfg, folder, source, log, monitor, device, phases, state)
    try:
        log.say(describe(cfg, source, phases[0], state.method, device))
        alike = "" if state.step else all_alike(source)
        for message in filter(None, [parallel.alone(), alike, *said, *state.messages]):
            log.say(message)
        if state.step == 0 or run.evaluation_missed():
            run.evaluate(state.step)
        profile = profiled(cfg.run.profile if parallel.rank() == 0 else 0, folder.profile, device, log.say)
        with StopSignals() as signals, profile as run.end_of_step:
            run.go_on(signals)
        run.checkpoints.finish()
        run.export(state.step)  # again: an earlier process may have died between the last checkpoint and the product
        if parallel.rank() == 0 and cfg.run.pictures:
            draw_pictures(folder, run.cfg, run.monitor[1] if run.monitor else source)
        made = f"{folder.weights.name}, {folder.metrics.name}" + (", pictures" if cfg.run.pictures else "")
        log.say("; ".join(filter(None, [f"done: {folder.path} ({made})", run.best()])))
    except Exception as caught:
        lacks = lacking(caught)
        if not lacks and not isinstance(caught, UserError):
            raise
        error = out_of_memory(run.cfg) if lacks == OUT_OF_MEMORY else UserError(lacks or str(caught))
        with suppress(UserError):
            run.checkpoints.finish()
        last = checkpoint.checkpoints(folder.checkpoints)
        reason = f"{error}. The last good checkpoint is {last[-1]}" if last else str(error)
        with suppress(OSError):  # on a full disk
            log.note(f"stopped: {reason}")
        raise UserError(reason) from caught
    finally:
        log.close()


class Prepared(NamedTuple):
    """What a run starts from."""

    cfg: Config  # whose options are settled
    source: Source
    monitor: tuple[Source, Source] | None  # labelled train and test images for k-NN
    phases: list[Phase]
    places: list[Path]  # checkpoints to go on from
    said: list[str]  # lines for the log


def prepare(cfg: Config, folder: RunFolder, resume: bool) -> Prepared:
    """Check and settle what a run starts from. Everything that can be refused is refused here, before the first line of the log."""
    unmonitored: list[str] = []
    with parallel.first_rank_first():
        places = check_run(folder, cfg, resume)
        source = open_data(cfg, folder.listing)
        check_micro_batch(cfg, source)
        monitor = monitor_sources(cfg, source, unmonitored.append)
    refuse_unshared(len(set(parallel.collect(len(places)))) > 1, folder)
    cfg, said = settle_micro_batch(cfg, source, load_saved_config(folder.config) if places else None)
    phases = plan_phases(cfg, len(source))
    with parallel.first_rank_first():
        if parallel.rank() == 0:
            describe_run(folder, cfg, source, resumed=bool(places))
    refuse_unshared(not all(parallel.collect(folder.config.is_file())), folder)
    return Prepared(cfg, source, monitor, phases, places, [*said, *unmonitored])


def refuse_unshared(differs: bool, folder: RunFolder) -> None:
    """Raises UserError where the processes do not see the same files in the run's folder."""
    if differs:
        raise UserError(
            f"{folder.path}: not all processes see the same files there; all machines must share run.dir's file system"
        )
