"""Several encoders side by side: the results of `dinolab eval all`, with other results of the run on the same images."""

from collections.abc import Sequence

from dinolab.evals.comparison_table import failures
from dinolab.report.evaluated import Evaluated, heading, own_settings, rank, setting
from dinolab.report.run import Comparison, Json, Run
from dinolab.report.tables import Cell, Table

Column = dict[str, Evaluated]  # by the name of a row


def comparison_table(comparison: Comparison, run: Run) -> Table | None:
    """A row for each encoder, a column for each evaluation; None for an all.json of another shape.

    The results are read from the files of the run, so that an encoder that was evaluated apart from the others is among them.
    """
    try:
        rows = {str(row["name"]): row for row in comparison.content["encoders"]}
        columns, more = find_results(comparison, run, rows)
        names = [*rows, *dict.fromkeys(name for column in columns.values() for name in column if name not in rows)]
        headings = ["encoder", *(heading(next(iter(column.values()))) for column in columns.values()), "images/s"]
        cells = [
            [Cell(name), *(cell(column.get(name)) for column in columns.values()), speed(rows.get(name, {}))]
            for name in names
        ]
        return Table("Side by side", " ".join(notes(comparison.content, more)), headings, cells)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def find_results(comparison: Comparison, run: Run, rows: dict[str, Json]) -> tuple[dict[str, Column], Column]:
    """The results by evaluation and row; and by both, those that `dinolab eval all` did not make."""
    same = [one for one in run.results if one.main and is_of(comparison.content["data"], one)]
    apart = {id(one): not one.folder.is_relative_to(comparison.folder) for one in same}
    own = next((name for one in same if run.is_own(one) and (name := row_of(one, rows))), next(iter(rows), ""))
    columns: dict[str, Column] = {}
    more: Column = {}
    for one in sorted(same, key=lambda one: (rank(one.result.evaluation), apart[id(one)])):
        name = row_of(one, rows) or (own if run.is_own(one) else one.encoder)
        evaluation = one.result.evaluation
        columns.setdefault(evaluation, {}).setdefault(name, one)
        if evaluation not in rows.get(name, {}).get("results", {}):
            more.setdefault(f"{name}, {one.title}", one)
    return columns, more


def is_of(data: Json, evaluated: Evaluated) -> bool:
    """Whether a result has the comparison's train and test images; without test images, both held out the same part."""
    return all(evaluated.result.data.get(part) == data[part] for part in ("train", "test") if data.get(part))


def row_of(evaluated: Evaluated, rows: dict[str, Json]) -> str:
    """Name of the row with this encoder; empty if there is none."""
    return next((name for name, row in rows.items() if evaluated.encoder in (name, row.get("encoder"))), "")


def cell(evaluated: Evaluated | None) -> Cell:
    """For example "76.8 (74.2-79.4)"; over several seeds also their mean and standard deviation."""
    if evaluated is None or evaluated.main is None:
        return Cell("")
    figure, main, over = evaluated.figure, evaluated.main, evaluated.result.seeds
    text = figure.number(main.value)
    if main.interval:
        text += f" ({'-'.join(figure.number(end) for end in main.interval)})"
    if over:
        text += f"; {figure.number(over['mean'])} ± {figure.number(over['std'])}"
    return Cell(text, main.value)


def speed(row: Json) -> Cell:
    found = row.get("throughput", {}).get("images_per_s")
    return Cell("") if found is None else Cell(f"{found:,.0f}", found)


def notes(content: Json, more: Column) -> list[str]:
    """Sentences: which images, what the figures are, and what failed."""
    rows, data = content["encoders"], content["data"]
    test = data.get("test") or "a part of them that was held out"
    found = [f"Train images: {data['train']}; test images: {test}. In brackets: the 95 % interval over test images."]
    seeds = content["settings"].get("seeds", 1)
    if seeds > 1:
        found.append(f"After it: mean and standard deviation over {seeds} seeds, where something is drawn at random.")
    at = next((row["throughput"] for row in rows if "throughput" in row), None)
    if at:
        found.append(f"images/s: the network alone, batches of {at['batch_size']}, {at['precision']} on {at['device']}.")
    found += sizes(rows)
    for name, evaluated in more.items():
        settings = ", ".join(f"{key.replace('_', ' ')} {setting(value)}" for key, value in own_settings(evaluated).items())
        found.append(f"{name}: {'from initial weights, ' if evaluated.is_untrained else ''}{settings or 'default options'}.")
    return found + [f"Failed: {reason}." for row in rows for reason in failures(row)]


def sizes(rows: Sequence[Json]) -> list[str]:
    """The images' sizes; with several, which encoders had which."""
    by_size: dict[str, list[str]] = {}
    for row in rows:
        if "size" in row:
            by_size.setdefault(" x ".join(map(str, row["size"])), []).append(row["name"])
    several = len(by_size) > 1
    return [f"{size} pixels" + (f": {', '.join(names)}" if several else "") + "." for size, names in by_size.items()]
