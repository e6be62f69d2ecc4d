"""The job's accuracies in one table: linear first, and the fine-tuned networks beside the frozen ones."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from dinolab.evals import comparison_table as tables
from dinolab.files import write_whole


def read_table(out: Path) -> dict[str, Any]:
    """eval/all/all.json with the fine-tuned networks, which `dinolab eval all` does not know of."""
    summary = json.loads((out / "eval" / "all" / "all.json").read_bytes())
    files = (out / "eval" / name / "result.json" for name in ("finetuned", "supervised"))
    return tables.with_finetuned(summary, *(json.loads(f.read_bytes()) if f.is_file() else None for f in files))


def write_table(out: Path) -> None:
    write_whole(out / "table.md", tables.markdown(read_table(out)).encode())


def print_table(out: Path) -> None:
    summary = read_table(out)
    Console(width=None if sys.stdout.isatty() else 160).print(tables.table(summary))
    print(*tables.notes(summary), sep="\n")
