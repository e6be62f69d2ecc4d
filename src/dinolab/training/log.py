"""Where a run's figures and words go: metrics.jsonl, log.txt, the terminal, and TensorBoard or W&B on request."""

import json
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from dinolab.config import to_dict
from dinolab.errors import UserError, masked, one_line
from dinolab.files import naming, write_whole
from dinolab.options import Config
from dinolab.progress import can_move, make_bar
from dinolab.rundir import RunFolder


class NoLog:
    """A log that drops everything: only the first process writes one."""

    def line(self, figures: dict[str, float]) -> None: ...

    def say(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


class RunLog:
    """One run's log. `resume_step` drops what an earlier, killed process logged beyond the checkpoint it left."""

    def __init__(self, folder: RunFolder, cfg: Config, total: int, resume_step: int):
        self.folder, self.cfg = folder, cfg
        self.console = Console(stderr=True, highlight=False)
        self._tensorboard = self._open_tensorboard(resume_step) if cfg.run.tensorboard else None
        self._wandb = self._open_wandb() if cfg.run.wandb else None
        self._keep_lines_before(resume_step or -1)  # a new run keeps none, not even of its step 0
        self._metrics = folder.metrics.open("a")
        self._words = folder.log.open("a", encoding="utf-8", errors="backslashreplace")
        self._progress = make_bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            shown=can_move(self.console),
        )
        self._task = self._progress.add_task(cfg.method, total=total, completed=resume_step, figures="")
        self._progress.start()
        self._knn = ""

    def line(self, figures: dict[str, float]) -> None:
        """One line of metrics.jsonl, on disk at once, and the terminal's figures."""
        with naming(self.folder.metrics):
            self._metrics.write(json.dumps({k: _short(v) for k, v in figures.items()}) + "\n")
            self._metrics.flush()
        step = int(figures["step"])
        if "knn" in figures:
            self._knn = f"k-NN {figures['knn']:.1%}"
        if "loss" in figures:
            text = f"loss {figures['loss']:.3f}  {figures['images_per_s']:.1f} img/s  waits {figures['data_wait']:.0%}  {self._knn}"
            self._progress.update(self._task, completed=step, figures=text)
            if self._progress.disable and step % (10 * self.cfg.run.log_every) == 0:
                self.console.print(f"step {step}  {text}")
        if self._tensorboard:
            for key, value in figures.items():
                self._tensorboard.add_scalar(key, value, step)
        if self._wandb:
            self._wandb.log(figures, step=step)

    def say(self, text: str) -> None:
        """A sentence for log.txt and the terminal."""
        self.note(text)
        self.console.print(one_line(text), markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A sentence for log.txt alone."""
        with naming(self.folder.log):
            self._words.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {one_line(text)}\n")
            self._words.flush()

    def close(self) -> None:
        self._progress.stop()
        for file in (self._metrics, self._words):
            with suppress(OSError):  # what a full disk did not take has been reported
                file.close()
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()

    def _keep_lines_before(self, step: int) -> None:
        if self.folder.metrics.exists():
            rows, _ = self.folder.read_metrics()
            kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
            write_whole(self.folder.metrics, "".join(kept).encode())

    def _open_tensorboard(self, resume_step: int) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("run.tensorboard=true needs TensorBoard: pip install 'dinolab[tensorboard]'") from error
        return SummaryWriter(self.folder.tensorboard, purge_step=resume_step + 1)

    def _open_wandb(self) -> Any:
        try:
            import wandb
        except ImportError as error:
            raise UserError("run.wandb needs Weights & Biases: pip install 'dinolab[wandb]'") from error
        identity = self.folder.wandb_id
        if not identity.exists():
            identity.write_text(secrets.token_hex(4))
        return wandb.init(
            project=self.cfg.run.wandb,
            name=self.folder.path.name,
            id=identity.read_text(),
            resume="allow",
            dir=self.folder.path,
            config=masked(to_dict(self.cfg)),
        )


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")
