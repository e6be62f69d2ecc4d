"""Python use: in a notebook, in a thread, in a spawned process."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import dinolab
from dinolab.errors import UserError
from dinolab.runs.folder import alone_in_process
from tests.pictures import TINY, make_folder

STEPS = 40


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("notebook") / "pictures")


def words(pictures: Path, run: Path, steps: int) -> list[str]:
    own = [f"data.path={pictures}", f"run.dir={run}", f"optim.length={steps} steps", "eval.every=0 steps"]
    return ["dinov2_vits16", *TINY, *own]


def train_on_one_core(*words: str) -> None:
    torch.set_num_threads(1)  # sums may depend on the number of threads
    dinolab.train(*words)


def test_the_same_weights_in_the_main_thread_a_thread_and_a_spawned_process(pictures: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    train_on_one_core(*words(pictures, tmp_path / "main", 2))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train_on_one_core, *words(pictures, tmp_path / "thread", 2)).result()
    process = multiprocessing.get_context("spawn").Process(
        target=train_on_one_core, args=words(pictures, tmp_path / "spawned", 2)
    )
    process.start()
    process.join()
    torch.set_num_threads(before)
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("main", "thread", "spawned")}
    assert weights["thread"] == weights["main"] and weights["spawned"] == weights["main"]


def enter() -> None:
    with alone_in_process():
        pass


def test_a_second_training_in_the_same_process_is_refused(pictures: Path, tmp_path: Path) -> None:
    with alone_in_process(), ThreadPoolExecutor(1) as pool:
        second = pool.submit(dinolab.train, *words(pictures, tmp_path / "run", 2))
        with pytest.raises(UserError, match="another training runs in this process; wait for it, or"):
            second.result()
        assert not (tmp_path / "run").exists()
        forked = multiprocessing.get_context("fork").Process(target=enter)  # the way out that the message names
        forked.start()
        forked.join()
        assert forked.exitcode == 0
    enter()  # the first one has ended


INTERRUPT = """
import os, signal, threading, time
from pathlib import Path

def interrupt():  # as a notebook's button does
    file = Path({run!r}, "metrics.jsonl")
    while not file.exists() or not file.read_text():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
"""


@pytest.fixture(scope="module")
def cells(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """Outputs of: a training that is interrupted, the same again, an evaluation, an embedding, a mistake."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    folder = tmp_path_factory.mktemp("kernel")
    run, data = str(folder / "run"), str(pictures)
    train = f"dinolab.train(*{words(pictures, folder / 'run', STEPS)!r})"
    sources = [
        f"import torch; torch.set_num_threads(1)\nimport dinolab\n{INTERRUPT.format(run=run)}\n{train}",
        train,
        f"dinolab.evaluate('knn', {run!r}, {data!r}, {data!r}, cache='none')",
        f"features = dinolab.embed({run!r}, {data!r}, cache='none')",
        "dinolab.train('dinov2_vits16', 'data.path=nowhere')",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    there = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(book, timeout=300, allow_errors=True, resources=there).execute()
    return [cell.outputs for cell in book.cells]


def bars(outputs: list[Any], counted: str) -> list[str]:
    """The text of each output that shows a bar and this count."""
    texts = [output["data"]["text/plain"] for output in outputs if output["output_type"] == "display_data"]
    return [text for text in texts if "━" in text and counted in text]


def test_an_interrupted_cell_has_saved_and_goes_on_when_it_is_run_again(cells: list[list[Any]]) -> None:
    first, second = cells[:2]
    error = first[-1]
    assert error["ename"] == "Interrupted" and error["traceback"] == [f"Interrupted: {error['evalue']}"]
    assert "stopped by SIGINT; saved" in error["evalue"]
    said = "".join(output["data"]["text/plain"] for output in second)
    assert "resumed from " in said and "done: " in said and second[-1]["output_type"] == "execute_result"


def test_a_training_shows_one_bar_that_moves(cells: list[list[Any]]) -> None:
    for outputs in cells[:2]:
        assert len(bars(outputs, f"/{STEPS}")) == 1 and len(outputs) < 8
        assert not [output for output in outputs if output["output_type"] == "stream"]
    (ended,) = bars(cells[1], f"{STEPS}/{STEPS}")
    assert "loss " in ended


def test_evaluating_and_embedding_show_their_bars(cells: list[list[Any]]) -> None:
    assert len(bars(cells[2], "24/24")) == 2  # train and test
    assert len(bars(cells[3], "24/24")) == len(cells[3]) == 1


def test_a_result_is_shown_as_a_table(cells: list[list[Any]]) -> None:
    shown = cells[2][-1]["data"]
    assert "test images" in shown["text/html"] and "% to " in shown["text/html"]
    assert len(shown["text/plain"].splitlines()) < 12


def test_a_mistake_is_one_line(cells: list[list[Any]]) -> None:
    (error,) = cells[4]
    assert error["traceback"] == ["UserError: data.path=nowhere: no such file or folder"]
