"""The table of a comparison: for the terminal and as Markdown."""

from typing import Any

from rich.markup import escape
from rich.table import Table

OF_A_JOB = ("linear", "knn", "logreg", "finetune")  # columns


def cells(summary: dict[str, Any]) -> list[list[str]]:
    """The heading, and a line an encoder: accuracies in per cent, and images/s."""
    protocols = summary["settings"]["protocols"]
    lines = []
    for row in summary["encoders"]:
        accuracies = [accuracy_of(row["results"].get(protocol, {})) for protocol in protocols]
        speed = f"{row['throughput']['images_per_s']:,.0f}" if "throughput" in row else "-"
        lines.append([row["name"], *accuracies, speed])
    return [["", *(f"{protocol}, %" for protocol in protocols), "images/s"], *lines]


def with_finetuned(
    summary: dict[str, Any], own: dict[str, Any] | None, supervised: dict[str, Any] | None
) -> dict[str, Any]:
    """A job's summary with what `dinolab eval all` does not know of: a column for the first encoder fine-tuned, and a row for the
    untrained network trained with labels.
    """
    first, *others = summary["encoders"]
    if own:
        first = first | {"results": first["results"] | {"finetune": own}}
    if supervised:
        others.append({"name": "supervised", "results": {"finetune": supervised}})
    return summary | {"settings": summary["settings"] | {"protocols": [*OF_A_JOB]}, "encoders": [first, *others]}


def accuracy_of(result: dict[str, Any]) -> str:
    """76.8 (74.2-79.4), and over several seeds their mean and standard deviation."""
    if "accuracy" not in result:
        return "-"
    low, high = (100 * end for end in result["interval"])
    text = f"{100 * result['accuracy']:.1f} ({low:.1f}-{high:.1f})"
    if "seeds" in result:
        over = result["seeds"]
        text += f"; {100 * over['mean']:.1f} ± {100 * over['std']:.1f}"
    return text


def notes(summary: dict[str, Any]) -> list[str]:
    """What the figures are, and what failed."""
    rows, settings = summary["encoders"], summary["settings"]
    test = summary["data"]["test"] or "a fifth of them, held out"
    said = [
        f"Learned from {summary['data']['train']}, asked of {test}; in brackets the 95 % interval over test images."
    ]
    if settings["seeds"] > 1:
        said[0] += f" After it mean and standard deviation over {settings['seeds']} seeds, where something is drawn."
    at = next((row["throughput"] for row in rows if "throughput" in row), None)
    if at:
        said.append(f"images/s: the bare forward, batches of {at['batch_size']}, {at['precision']} on {at['device']}.")
    by_size: dict[str, list[str]] = {}
    for row in rows:
        if "size" in row:
            by_size.setdefault(" x ".join(map(str, row["size"])), []).append(row["name"])
    several = len(by_size) > 1
    said += [f"{size} pixels" + (f": {', '.join(of)}" if several else "") + "." for size, of in by_size.items()]
    for row in rows:
        if epochs := row["results"].get("finetune", {}).get("protocol", {}).get("epochs"):
            which = "the untrained network, all of it" if row["name"] == "supervised" else f"all of {row['name']}"
            said.append(f"{row['name']}, finetune: {which} trained with labels, {epochs} epochs.")
    return said + [f"Failed: {reason}" for row in rows for reason in failures(row)]


def failures(row: dict[str, Any]) -> list[str]:
    """What went wrong with an encoder, by name and reason."""
    found = {"": row.get("failure")} | {protocol: one.get("failure") for protocol, one in row["results"].items()}
    return [f"{row['name']}{protocol and f', {protocol}'}: {reason}" for protocol, reason in found.items() if reason]


def markdown(summary: dict[str, Any]) -> str:
    heading, *lines = ([cell.replace("|", "\\|") for cell in line] for line in cells(summary))
    rule = ["---", *["---:"] * (len(heading) - 1)]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in (heading, rule, *lines))
    return "\n".join([rows, "", *(f"- {note}" for note in notes(summary))]) + "\n"


def table(summary: dict[str, Any]) -> Table:
    heading, *lines = cells(summary)
    shown = Table(show_edge=False)
    for name in heading:
        shown.add_column(name, justify="left" if not name else "right")
    for line in lines:
        shown.add_row(*map(escape, line))
    return shown
