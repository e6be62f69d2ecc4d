"""Why an image of a curated set is in or out, in sentences."""

import numpy as np

from dinolab.curation.decisions import Verdicts, finished, read_verdicts
from dinolab.curation.names import Names
from dinolab.data.storage import describe
from dinolab.errors import some
from dinolab.features.store import Store

NAMED = 5  # images that are out because of one, which are named


def explain(store: Store, image: str) -> list[str]:
    """Why an image is in or out: a sentence for each stage.

    Args:
        image: what it is called, see `Names.row`.

    Raises:
        UserError: there is no such image, or there are several.
    """
    locations = store.rows["location"]
    names = Names(locations)
    row = names.row(image)
    name = names.names[row]
    facts = {name: store.rows[name][row] for name in ("source", "problem", "height", "width", "bytes")}
    if facts["problem"]:
        return [f"{name}: out", f"embed: cannot be read ({facts['problem']})"]
    lines = [f"embed: from {facts['source']}, {facts['width']} x {facts['height']} pixels, {facts['bytes']:,} bytes"]
    kept = True
    for stage in finished(store.folder):
        verdicts = read_verdicts(store, stage)
        was_in, kept = kept, bool(verdicts.kept[row])
        if not was_in and not kept:
            continue
        lines.append(f"{stage}: {'' if kept else 'out: '}{because(verdicts, row) or ('in' if kept else 'out')}")
        for other in others(verdicts, row, locations):
            lines.append(f"{stage}: {names.names[other]} is out, too: {because(verdicts, other)}")
        follow = np.flatnonzero(~verdicts.kept & (verdicts.of == locations[row]))
        if len(follow):
            lines.append(f"{stage}: out because of it: {some([names.names[one] for one in follow], NAMED, ', ')}")
    return [f"{name}: {'in' if kept else 'out'}", *lines]


def others(verdicts: Verdicts, row: int, locations: np.ndarray) -> list[int]:
    """The image because of which one is out, if it is out, too, and the one because of which that is out, and so on."""
    found = [row]
    while not verdicts.kept[found[-1]]:
        named = np.flatnonzero(locations == verdicts.of[found[-1]])
        if not len(named) or named[0] in found:
            return found[1:]
        found.append(int(named[0]))
    return found[1:-1]


def because(verdicts: Verdicts, row: int) -> str:
    """What decided about an image: the reason, the other image and their similarity."""
    parts = [verdicts.reason[row], describe(verdicts.of[row]) if verdicts.of[row] else ""]
    parts += [f"(cosine {verdicts.similarity[row]:.3f})"] if not np.isnan(verdicts.similarity[row]) else []
    return " ".join(filter(None, parts))
