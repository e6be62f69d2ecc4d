"""The wheel: built from this checkout, installed where nothing else of it is, and used."""

import os
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import missing
from tests.pictures import TINY, fit_words, make_folder

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(command: list[str | Path], folder: Path) -> str:
    """What a command prints, run where it finds no checkout."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("hatchling", "hatch_vcs"):
        if find_spec(name) is None:
            missing(name)
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(build, check=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `dinolab` of an environment with the wheel and, by a path, the libraries that it needs."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    own = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    # .pth files in a folder that is named by one are not read, so an editable dinolab there stays away
    (Path(own) / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "dinolab"


def test_everything_is_in_it(wheel: Path) -> None:
    kept = subprocess.run(["git", "ls-files", "src/dinolab", "configs"], cwd=ROOT, capture_output=True, text=True)
    files = {line.removeprefix("src/") for line in kept.stdout.split() if line.startswith("src/")}
    files |= {f"dinolab/{line}" for line in kept.stdout.split() if line.startswith("configs/")}
    assert len(files) > 200 and "dinolab/report/templates/style.css" in files
    assert files - {*ZipFile(wheel).namelist()} == set()


def test_it_is_used(command: Path, wheel: Path, tmp_path: Path) -> None:
    version = wheel.name.split("-")[1]
    assert run([command, "--version"], tmp_path) == f"dinolab {version}\n"
    python = command.with_name("python")
    found = run([python, "-c", "import dinolab; print(dinolab.__version__, dinolab.__file__)"], tmp_path)
    assert found.startswith(f"{version} {command.parents[1]}")
    assert "demo" in run([command, "--help"], tmp_path)
    photos = make_folder(tmp_path / "photos", side=32)
    words = fit_words(
        [f"data.path={photos}", *TINY, "optim.length=2 steps", "optim.warmup=1 steps", "eval.every=0 steps"]
    )
    run([command, "train", "demo", *words, "run.dir=run"], tmp_path)
    run([command, "report", "run"], tmp_path)
    assert "<style>" in (tmp_path / "run" / "report.html").read_text()
