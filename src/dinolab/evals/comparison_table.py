"""The table of a comparison: for the terminal and as Markdown."""

from rich.markup import escape
from rich.table import Table

from dinolab.errors import printable
from dinolab.evals import EVALS
from dinolab.evals.comparison import Comparison, Entry
from dinolab.evals.contract import Figure


def main_figure(column: str) -> Figure:
    """The main figure of a column, EVALUATION or EVALUATION:DATA; a plain share for one that this version does not know."""
    evaluation = EVALS.get(column.partition(":")[0])
    return evaluation.main if evaluation else Figure("accuracy", "accuracy")


def cells(comparison: Comparison) -> list[list[str]]:
    """The headings, and a line for each encoder: the main figure of each evaluation, and images/s."""
    lines = []
    for row in comparison.encoders:
        figures = [figure_of(row.results.get(name), name) for name in comparison.evaluations]
        speed = f"{row.throughput['images_per_s']:,.0f}" if row.throughput else "-"
        lines.append([row.name, *figures, speed])
    return [["", *map(heading, comparison.evaluations), "images/s"], *lines]


def heading(evaluation: str) -> str:
    """knn, %"""
    figure = main_figure(evaluation)
    unit = f", {figure.unit}" if figure.unit else ""
    return f"{evaluation}{unit}" if figure.higher_is_better else f"{evaluation}{unit} (lower is better)"


def figure_of(entry: Entry | None, evaluation: str) -> str:
    """76.8 (74.2-79.4), and with several seeds their mean and standard deviation; "-" without a result."""
    result, figure = entry.result if entry else None, main_figure(evaluation)
    if not result or not result.main:
        return "-"
    text = figure.number(result.main.value)
    if result.main.interval:
        text += " ({}-{})".format(*map(figure.number, result.main.interval))
    if result.seeds:
        text += f"; {figure.number(result.seeds['mean'])} ± {figure.number(result.seeds['std'])}"
    return text


def notes(comparison: Comparison) -> list[str]:
    """Sentences that explain the figures, and what failed."""
    if "suite" in comparison.data:
        where = f"Suite {comparison.data['suite']}, data sets under {comparison.data['train']}"
        first = f"{where}; in brackets the 95 % interval over test images."
        return [first, *of_encoders(comparison)]
    test = comparison.data["test"] or "a fifth of them, held out"
    first = f"Trained on {comparison.data['train']}, tested on {test}; in brackets the 95 % interval over test images."
    if comparison.settings["seeds"] > 1:
        first += f" After it mean and standard deviation over {comparison.settings['seeds']} seeds, where something is random."
    return [first, *of_encoders(comparison)]


def of_encoders(comparison: Comparison) -> list[str]:
    """Sentences about the encoders: their speed and sizes, how long they were trained, and what failed."""
    found: list[str] = []
    rows = comparison.encoders
    at = next((row.throughput for row in rows if row.throughput), None)
    if at:
        found.append(f"images/s: the forward pass, batches of {at['batch_size']}, {at['precision']} on {at['device']}.")
    by_size: dict[str, list[str]] = {}
    for row in rows:
        if row.size:
            by_size.setdefault(" x ".join(map(str, row.size)), []).append(row.name)
    several = len(by_size) > 1
    found += [f"{size} pixels" + (f": {', '.join(of)}" if several else "") + "." for size, of in by_size.items()]
    found += [epochs for name in comparison.evaluations if (epochs := epochs_of(comparison, name))]
    return found + [f"Failed: {failure}" for row in rows for failure in row.failures]


def epochs_of(comparison: Comparison, evaluation: str) -> str:
    """How long an evaluation trained each encoder; empty for one that does not count epochs."""
    results = {row.name: row.results[evaluation].result for row in comparison.encoders if evaluation in row.results}
    epochs = {
        name: result.settings["epochs"] for name, result in results.items() if result and "epochs" in result.settings
    }
    title = EVALS[evaluation].title if evaluation in EVALS else evaluation
    listed = ", ".join(f"{name} {number}" for name, number in epochs.items())
    return f"{evaluation}: {title}; epochs: {listed}." if epochs else ""


def markdown(comparison: Comparison) -> str:
    """The table and its notes, and the data sets that a suite did not find."""
    headings, *lines = ([cell.replace("|", "\\|") for cell in line] for line in cells(comparison))
    rule = ["---", *["---:"] * (len(headings) - 1)]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *lines))
    missing = [f"Missing: {one}." for one in comparison.data.get("missing", [])]
    return "\n".join([rows, "", *(f"- {note}" for note in (*notes(comparison), *missing))]) + "\n"


def table(comparison: Comparison) -> Table:
    """The table for the terminal."""
    headings, *lines = cells(comparison)
    shown = Table(show_edge=False)
    for name in headings:
        shown.add_column(name, justify="left" if not name else "right")
    for line in lines:
        shown.add_row(*(escape(printable(cell)) for cell in line))
    return shown
