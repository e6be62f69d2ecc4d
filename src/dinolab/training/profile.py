"""Where the time of a run's first steps goes: a trace for Chrome's or Perfetto's viewer and a table, on request."""

import bisect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch.autograd.profiler_util import DeviceType, FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function, schedule

WARM_UP = 3  # steps that pass before the profile begins
OPERATORS = 25  # that the table names
PARTS = (
    "data wait",
    "to device",
    "targets",
    "loss",
    "backward",
    "optimizer",
    "after step",
)  # of a step, in their order


def span(name: str) -> AbstractContextManager:
    """Marks one of the PARTS of a step. Without a profiler that is watching it costs under a microsecond."""
    return record_function(name) if torch.autograd._profiler_enabled() else nullcontext()


@contextmanager
def profiled(
    steps: int, folder: Path, device: torch.device, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Profile `steps` steps (0: none) of what runs inside; yields what is to be called at the end of each step.

    Writes trace.json.gz and table.txt into the folder as soon as the steps are done, or when the run ends before.
    """
    if not steps:
        yield lambda: None
        return
    written = False

    def write(profiler: profile) -> None:
        nonlocal written
        written = True
        folder.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(folder / "trace.json.gz"))
        by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
        operators = profiler.key_averages()
        operators[:] = [row for row in operators if not row.is_user_annotation]
        table = operators.table(sort_by=by, row_limit=OPERATORS)
        (folder / "table.txt").write_text(f"{table_of_parts(list(profiler.events()))}\n\nBy operator:\n\n{table}\n")
        say(f"profile: {folder}/table.txt, and trace.json.gz there for chrome://tracing or ui.perfetto.dev")

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    plan = schedule(wait=WARM_UP - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write, acc_events=True) as profiler:
        yield profiler.step
    if not written:
        say(f"run.profile={steps}: the run ended within the {WARM_UP} steps of warm-up, so there is no profile")


def table_of_parts(events: list[FunctionEvent]) -> str:
    """Milliseconds a step and shares by part of the step: of the process's own time and, on a GPU, of its kernels' time.

    A kernel belongs to the part in whose time it was launched, from whatever thread (autograd has threads of its own).
    """
    events = [e for e in events if e.device_type == DeviceType.CPU]
    whole = sum(e.time_range.elapsed_us() for e in events if e.name == "ProfilerStep*")
    spans = sorted((e for e in events if e.name in PARTS), key=lambda e: e.time_range.start)
    steps = max(1, sum(e.name == PARTS[-1] for e in spans))
    host = dict.fromkeys((*PARTS, "rest"), 0.0)  # microseconds
    kernels = dict(host)
    for e in spans:
        host[e.name] += e.time_range.elapsed_us()
    host["rest"] = whole - sum(host.values())

    starts = [e.time_range.start for e in spans]
    for e in events:
        if e.kernels and not e.is_user_annotation:
            at = bisect.bisect_right(starts, e.time_range.start) - 1
            inside = at >= 0 and e.time_range.start < spans[at].time_range.end
            kernels[spans[at].name if inside else "rest"] += sum(k.duration for k in e.kernels)

    columns = {"CPU": host, "CUDA": kernels} if any(kernels.values()) else {"CPU": host}
    lines = [
        f"{steps} steps, {whole / steps / 1e3:.1f} ms each. The profiler itself slows them: shares say more than times.",
        "The rest is the log, checkpoints and evaluation.\n",
        " ".join(["By part of the step"] + [f"{name:>12} ms {'share':>7}" for name in columns]),
    ]
    for name in host:
        figures = [f"{c[name] / steps / 1e3:>15.2f} {c[name] / (sum(c.values()) or 1):>7.1%}" for c in columns.values()]
        lines.append(" ".join([f"{name:19}", *figures]))
    return "\n".join(lines)
