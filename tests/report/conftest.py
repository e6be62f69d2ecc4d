"""A run with everything that a report can show, made once; and the folder of a run of the version before."""

import tarfile
from pathlib import Path

import pytest

from dinolab.bench import attention
from dinolab.bench.common import setting
from dinolab.bench.report import report as write_benchmark
from dinolab.evals.evaluate import evaluate
from dinolab.machine import environment
from dinolab.runs.train import train
from tests.pictures import TINY, make_folder

ABOUT = {"model": "tiny/16", "batch": 2, "pass": "inference"}
MEASURED = [
    {**ABOUT, "size": side, "tokens": tokens, "backend": backend, "ms": ms, "ms_quartiles": [ms - 1, ms + 1],
     "images_per_s": 2000 / ms, "peak_memory_mb": 10.0 * tokens, "rounds": 3}
    for side, tokens, ms in ((32, 5, 4.0), (64, 17, 40.0))
    for backend in ("sdpa", "math")
] + [{**ABOUT, "size": 128, "tokens": 65, "backend": "math", "note": "out of memory"}]  # fmt: skip


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """Three classes; checkpoints at steps 4, 8 and 12; k-NN and logistic regression; a benchmark."""
    folder = tmp_path_factory.mktemp("report")
    train_images = make_folder(folder / "images", per_class=10, classes=3)
    test_images = make_folder(folder / "test", per_class=5, classes=3, seed=1)
    words = [f"data.path={train_images}", f"eval.train={train_images}", f"eval.test={test_images}", "run.keep=9"]
    made = train("dinov2_vits16", *TINY, *words, f"run.dir={folder / 'mine'}")
    for name in ("knn", "logreg"):
        evaluate(
            name, made, str(train_images), str(test_images), made / "eval" / name,
            cache="none", environment=environment(),
        )  # fmt: skip
    write_benchmark(
        "attention", "Attention kernels", MEASURED, attention.COLUMNS, made / "speed", setting("cpu", "fp32", 0.0)
    )
    return made


@pytest.fixture(scope="session")
def earlier(tmp_path_factory) -> Path:
    """Runs with evaluations as the version before wrote them, and their images."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(Path(__file__).parents[1] / "fixtures" / "earlier.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder / "earlier"
