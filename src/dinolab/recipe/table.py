"""The job's accuracies in one table: linear first, and the fine-tuned networks beside the frozen ones."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from dinolab.evals import tables
from dinolab.files import write_whole

COLUMNS = ("linear", "knn", "logreg", "finetune")


def read_table(out: Path) -> dict[str, Any]:
    """eval/all/all.json with the column and the row that `dinolab eval all` does not know of."""
    summary = json.loads((out / "eval" / "all" / "all.json").read_bytes())
    tuned, supervised = (out / "eval" / name / "result.json" for name in ("finetuned", "supervised"))
    summary["settings"]["protocols"] = [*COLUMNS]
    if tuned.is_file():
        summary["encoders"][0]["results"]["finetune"] = json.loads(tuned.read_bytes())
    if supervised.is_file():
        summary["encoders"].append({"name": "supervised", "results": {"finetune": json.loads(supervised.read_bytes())}})
    return summary


def tuned_notes(summary: dict[str, Any]) -> list[str]:
    """What the names of that column and that row leave open."""
    said = []
    for row in summary["encoders"]:
        if tuned := row["results"].get("finetune"):
            which = "the untrained network, all of it" if row["name"] == "supervised" else f"all of {row['name']}"
            said.append(f"{row['name']}, finetune: {which} trained with labels, {tuned['protocol']['epochs']} epochs.")
    return said


def write_table(out: Path) -> None:
    summary = read_table(out)
    lines = "".join(f"- {note}\n" for note in tuned_notes(summary))
    write_whole(out / "table.md", (tables.markdown(summary) + lines).encode())


def print_table(out: Path) -> None:
    summary = read_table(out)
    Console(width=None if sys.stdout.isatty() else 160).print(tables.table(summary))
    print(*tables.notes(summary), *tuned_notes(summary), sep="\n")
