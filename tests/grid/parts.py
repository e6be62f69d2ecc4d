"""What the tests of grids share: a small grid, and the words of its runs."""

from pathlib import Path

from dinolab.cli import main
from tests.pictures import TINY, fit_words

STEPS = 12  # of TINY
WORDS = fit_words(["method=dino", *TINY])
ROWS = """
evaluations: [knn]
published: ablations
rows:
  plain: {published: {row: 1}}
  no crops: {words: [views.locals=0], published: {row: 4}}
"""
FAILING = "  lost: [init.weights=nowhere.pth]\n"


def write(folder: Path, text: str = ROWS) -> str:
    file = folder / "mine.yaml"
    file.write_text(text)
    return str(file)


def refused(words: list[str], capsys) -> str:
    """The one line that a command is refused with."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("dinolab: ")
