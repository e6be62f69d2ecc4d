"""A training within an evaluation, kept on disk while it runs: what was stopped goes on."""

import logging
import time
from pathlib import Path
from typing import Any

import torch

from dinolab.files import beside

log = logging.getLogger(__name__)
EVERY = 180.0  # seconds


class KeptState:
    """The state of some `parts` (each with state_dict and load_state_dict) after a step, in a file; without one nothing is kept."""

    def __init__(self, file: Path | None, of: str, parts: dict[str, Any]) -> None:
        """`of`: what the training depends on; a state of another one is not taken."""
        self.file, self.of, self.parts = file, of, parts
        self.saved = time.monotonic()

    def restore(self) -> int:
        """The number of steps that are done, by the parts as they were then; 0 where none is kept."""
        if not (self.file and self.file.is_file()):
            return 0
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever pickle, zip and torch raise for a damaged file
            log.warning("%s: cannot be read (%s); the training begins anew", self.file, error)
            return 0
        if state["of"] != self.of:
            log.warning("%s: of another training; this one begins anew", self.file)
            return 0
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        log.warning("%s: goes on after step %d", self.file, state["step"])
        return state["step"]

    def save_now_and_then(self, step: int) -> None:
        if self.file and time.monotonic() - self.saved >= EVERY:
            with beside(self.file) as place:
                states = {name: part.state_dict() for name, part in self.parts.items()}
                torch.save({"of": self.of, "step": step, **states}, place)
            self.saved = time.monotonic()
