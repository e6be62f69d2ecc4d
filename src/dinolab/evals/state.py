"""The state of a training within an evaluation, kept on disk while it runs, so that a stopped evaluation continues."""

import logging
import time
import zlib
from pathlib import Path
from typing import Any

import torch

from dinolab.errors import UserError, reason
from dinolab.features.cache import raw_bytes
from dinolab.files import beside

log = logging.getLogger(__name__)
EVERY = 180.0  # seconds
STATES = "state_*.pt"  # files that are removed once the evaluation has its result


def state_file(folder: Path | None, seed: int) -> Path | None:
    """Where an evaluation that writes to `folder` keeps its state; None keeps nothing."""
    return folder / STATES.replace("*", str(seed)) if folder else None


class KeptState:
    """The state of a training's parts after a step, in a file; with None for a file nothing is kept."""

    def __init__(self, file: Path | None, of: str, parts: dict[str, Any]) -> None:
        """
        Args:
            of: text that names everything the training depends on; the state of a training with another text is not used.
            parts: objects with state_dict and load_state_dict.
        """
        self.file, self.of, self.parts = file, of, parts
        self.saved = time.monotonic()

    def restore(self) -> int:
        """Load the kept state into the parts, and give the number of steps that are done; 0 where none is kept."""
        if not (self.file and self.file.is_file()):
            return 0
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            known, of, step = state.pop("crc32"), str(state["of"]), int(state["step"])
            if known != checksum(state):
                raise ValueError("its checksum differs")
        except Exception as error:  # pickle, zip and torch raise many kinds for a damaged file
            log.warning("%s: cannot be read (%s); the training starts again", self.file, error)
            return 0
        if of != self.of:
            log.warning("%s: the state of another training is there; this one starts from the beginning", self.file)
            return 0
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.file}: damaged ({reason(error)}); remove it to start this training again"
            ) from error
        log.warning("%s: continues after step %d", self.file, step)
        return step

    def save_now_and_then(self, step: int) -> None:
        """Write the state if the last time was some minutes ago."""
        if self.file and time.monotonic() - self.saved >= EVERY:
            states = {name: part.state_dict() for name, part in self.parts.items()}
            with beside(self.file) as place:
                state = {"of": self.of, "step": step, **states}
                torch.save({**state, "crc32": checksum(state)}, place)
            self.saved = time.monotonic()


def checksum(value: Any, before: int = 0) -> int:
    """CRC-32 over tensors and plain values within each other; a damaged state could load, and end the training later."""
    if isinstance(value, torch.Tensor):
        order = "" if value.is_contiguous() else f" {value.stride()}"  # or elements that share memory could look right
        form = f"{value.dtype} {tuple(value.shape)}{order}"
        return zlib.crc32(raw_bytes(value), zlib.crc32(form.encode(), before))
    if not isinstance(value, dict | list | tuple):
        return zlib.crc32(repr(value).encode(), before)
    total = zlib.crc32(f"{type(value).__name__} {len(value)}".encode(), before)
    for item in value.items() if isinstance(value, dict) else value:
        total = checksum(item, total)
    return total
