"""Training in a notebook, by the kernel that Jupyter uses."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.pictures import TINY, fit_words, make_folder

pytestmark = pytest.mark.slow


@pytest.fixture
def client(tmp_path: Path) -> Any:
    """A notebook's kernel in a folder with photos, from the environment of the tests."""
    for name in ("nbclient", "ipykernel"):
        if find_spec(name) is None:
            missing(name)
    import nbclient
    from jupyter_client.manager import AsyncKernelManager
    from nbformat.v4 import new_notebook

    make_folder(tmp_path / "photos")
    manager = AsyncKernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    place = {"metadata": {"path": str(tmp_path)}}
    made = nbclient.NotebookClient(new_notebook(), km=manager, resources=place, timeout=300)
    with made.setup_kernel():
        yield made


def run(client: Any, code: str) -> tuple[str, str]:
    """What a cell prints, and its value."""
    from nbformat.v4 import new_code_cell

    client.nb.cells.append(new_code_cell(code))
    cell = client.execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1)
    texts = {"stream": "", "display_data": "", "execute_result": ""}  # rich displays its lines, print makes a stream
    for output in cell.outputs:
        texts[output.output_type] += output["text"] if output.output_type == "stream" else output["data"]["text/plain"]
    return texts["stream"] + texts["display_data"], texts["execute_result"]


def test_a_notebook_trains_and_measures(client: Any, tmp_path: Path) -> None:
    words = fit_words([*TINY, "data.path=photos", "run.dir=runs/mine", "run.workers=1"])
    printed, value = run(client, f"import dinolab\ndinolab.train(None, *{words!r})")
    assert "step 12: k-NN" in printed and "done: runs/mine" in printed and value == "PosixPath('runs/mine')"
    assert (tmp_path / "runs" / "mine" / "model.safetensors").is_file()
    printed, value = run(client, "dinolab.evaluate('knn', 'runs/mine', 'photos').main.value")
    assert 0 <= float(value) <= 1
    printed, _ = run(
        client, f"try:\n    dinolab.train('demmo', *{words!r})\nexcept dinolab.UserError as error:\n    print(error)"
    )
    assert "did you mean demo?" in printed
