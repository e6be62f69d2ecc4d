"""What each stage of `dinolab curate` does and prints."""

import sys
from pathlib import Path
from typing import Any

from dinolab.errors import counted, say

MANY = 0.1  # share of the images near test images above which a hint is printed


def tell(*texts: object) -> None:
    """Print texts, in the first of several processes."""
    from dinolab.curation.parts import crew

    if crew().rank == 0:
        say(*texts)


def shown() -> bool:
    """Whether this process shows progress."""
    from dinolab.curation.parts import crew

    return sys.stderr.isatty() and crew().rank == 0


def run_plan(out: str, own: Any) -> int:
    from dinolab import curate

    say(*curate.plan(out, **vars(own)))
    return 0


def run_embed(out: str, own: Any) -> int:
    from dinolab import curate

    facts = curate.embed(out, progress=shown(), **vars(own)).manifest
    images, width = counted(facts["images"], "image"), facts["width"]
    tell(f"{out}: {images}, {width} features each, {facts['unreadable']:,} cannot be read")
    say_changed(out)
    return 0


def run_dedup(out: str, own: Any) -> int:
    from dinolab import curate

    found = curate.dedup(out, progress=shown(), **vars(own))
    near = found["near"] + found["chain"]
    tell(
        f"{out}: {found['kept']:,} of {counted(found['images'], 'image')} are in",
        f"out: {found['bytes']:,} of the same bytes, {found['hash']:,} by perceptual hash, {near:,} near-copies",
    )
    if own.against:
        equal, grouped = found["leak_bytes"] + found["leak_hash"], found["leak_groups"]
        tell(
            f"out: {equal:,} equal to test images, {found['leaks']:,} near them, {grouped:,} in groups with one of these"
        )
        share = (found["leaks"] + grouped) / found["images"]
        if share > MANY:
            words = f"these are {share:.0%} of the images; if they are not like test images (see decisions.csv), "
            tell(f"{words}raise threshold_against={own.threshold_against:g}, or for groups lower most={own.most}")
    tell(f"recall of the search for neighbours: {found['recall']:.4f}")
    say_changed(out)
    return 0


def run_retrieve(out: str, own: Any) -> int:
    from dinolab import curate

    found = curate.retrieve(out, progress=shown(), **vars(own))
    by = counted(found["curated"], "curated image")
    tell(f"{out}: {found['kept']:,} of {counted(found['images'], 'image')} are in, by {by}")
    if own.by == "neighbours":
        again = f"{found['found_again']:,} times a neighbour was found again by another curated image"
        tell(f"{again}; recall of the search: {found['recall']:.4f}")
    else:
        tell(f"{found['taken']:,} of {found['clusters']:,} clusters hold {own.at_least} curated images or more")
    say_changed(out)
    return 0


def run_sample(out: str, own: Any) -> int:
    from dinolab import curate

    found = curate.sample(out, progress=shown(), **vars(own))
    levels = ", ".join(f"{count:,}" for count in found["clusters"])
    tell(f"{out}: {found['kept']:,} of {counted(found['images'], 'image')} are in; clusters of each level: {levels}")
    say_changed(out)
    return 0


def run_all(out: str, own: Any) -> int:
    from dinolab.curation.options import DedupOptions, EmbedOptions, RetrieveOptions

    stages = ((run_embed, EmbedOptions), (run_dedup, DedupOptions), (run_retrieve, RetrieveOptions))
    return max(run(out, own.part(schema)) for run, schema in stages)


def run_review(out: str, own: Any) -> int:
    from dinolab import curate

    found = curate.review(out, **vars(own))
    say(
        f"{out}: {counted(found['kept'], 'image')} in, after decisions about {found['decisions']:,}: {found['dropped']:,} of "
        f"{found['images']:,} are left out, and {found['brought_back']:,} brought back"
    )
    say_changed(out)
    return 0


def run_explain(out: str, image: str) -> int:
    from dinolab import curate

    say(*curate.explain(out, image))
    say_changed(out)
    return 0


def say_changed(out: str) -> None:
    """Say so where an audit is of the set as it was before."""
    from dinolab.curation.findings import changed_since

    say(*changed_since(Path(out)))


def run_export(out: str, own: Any) -> int:
    from dinolab import curate

    found = curate.export(out, progress=shown(), **vars(own))
    there = f"; there already: {found['there']:,}" if found["there"] else ""
    say(f"{own.to}: {counted(found['images'], 'image')} in {counted(found['files'], 'file')}{there}")
    return 0


def run_audit(out: str, own: Any) -> int:
    from dinolab import curate
    from dinolab.curation.findings import FOLDER, LEAK, LISTED
    from dinolab.report.audited import PAGE

    found, folder = curate.audit(out, progress=shown(), **vars(own)), Path(out) / FOLDER
    say(f"{out}: {counted(found.images, 'image')} audited; recall of the search for neighbours: {found.recall:.4f}")
    for kind, one in found.found.items():
        say(f"{len(one):>8,}  {kind.title.lower()}")
        if kind == LEAK:
            say(*(f"{count:>12,}  between {a} and {b}" for (a, b), count in found.leaks.items()))
    say(f"the worst of each kind, with pictures: {folder / PAGE}", f"all of them: {folder / LISTED}")
    return 0
