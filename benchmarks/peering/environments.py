"""A virtual environment for each project that dinolab is measured beside."""

import os
import subprocess
import sys
import venv
from pathlib import Path

from dinolab.errors import UserError

REQUIREMENTS = {
    "lightly-train": ["lightly-train"],
    "lightly": ["lightly", "timm"],
    "stable-pretraining": ["stable-pretraining", "timm"],
}
# They run without a network: LightlyTrain's counting of its users would wait for it.
SETTINGS = {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "HF_HUB_OFFLINE": "1"}


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dinolab" / "peers"


def python_of(name: str, folder: Path) -> Path:
    """Return the Python of a project's environment below the folder; dinolab itself has the current one.

    The environment is made with pip if it is missing or incomplete.

    Raises:
        UserError: pip cannot install the project.
    """
    if name == "dinolab":
        return Path(sys.executable)
    home, wanted = folder / name, " ".join(REQUIREMENTS[name])
    python, done = home / "bin" / "python", home / "installed.txt"
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"installing {wanted} in {home}", file=sys.stderr)
    if not python.exists():
        venv.create(home, with_pip=True)
    pip = subprocess.run([python, "-m", "pip", "install", "-q", *wanted.split()], capture_output=True, text=True)
    if pip.returncode:
        lines = [line for line in pip.stderr.splitlines() if line.startswith("ERROR")]
        raise UserError(f"pip cannot install {name} in {home}: {lines[-1] if lines else pip.stderr[-200:]}")
    done.write_text(wanted)
    return python
