"""What each stage of `dinolab curate` does and prints."""

import sys
from pathlib import Path
from typing import Any

from dinolab.errors import UserError, say

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


def refuse_many(stage: str) -> None:
    """Raises UserError where there are several processes, of torchrun or of a SLURM array, for what runs in one."""
    from dinolab import parallel
    from dinolab.curation.parts import crew

    parallel.refuse_many(f"dinolab curate {stage}")
    if crew().world > 1:
        raise UserError(
            f"dinolab curate {stage} runs in one process; unset SLURM_ARRAY_TASK_ID in one task of the array"
        )


def run_plan(out: str, own: Any) -> int:
    from dinolab.curation.embedder import make_embedder
    from dinolab.data.sources import open_source
    from dinolab.features.inputs import open_encoder
    from dinolab.features.store import open_store
    from dinolab.parallel import choose_device
    from dinolab.plan.curation import plan_curation

    refuse_many("plan")
    source = open_source(own.data, option="data") if own.data else None
    store = None if source else open_store(out)
    embedder = make_embedder(*open_encoder(own.encoder), own, False) if source else None
    images, width = own.images or len(source or store or ()), store.width if store else 0
    device = choose_device(own.search_device, "search_device=")
    say(*plan_curation(images, width, own.curated, device, embedder, source))
    return 0


def run_embed(out: str, own: Any) -> int:
    from dinolab.curation.embed import embed_store
    from dinolab.curation.embedder import make_embedder
    from dinolab.data.sources import open_source
    from dinolab.features.inputs import open_encoder

    source = open_source(own.data, own, need_labels="label_column" in own.chosen(), option="data")
    embedder = make_embedder(*open_encoder(own.encoder), own, shown())
    store = embed_store(Path(out), source, embedder)
    facts = store.manifest
    tell(f"{out}: {facts['images']:,} images, {facts['width']} features each, {facts['unreadable']:,} cannot be read")
    say_changed(out)
    return 0


def run_dedup(out: str, own: Any) -> int:
    from dinolab.curation.dedup import dedup
    from dinolab.features.store import open_store

    found = dedup(open_store(out), own, shown())
    near = found["near"] + found["chain"]
    tell(
        f"{out}: {found['kept']:,} of {found['images']:,} images are in",
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
    from dinolab.curation.retrieve import retrieve
    from dinolab.features.store import open_store

    found = retrieve(open_store(out), own, shown())
    tell(f"{out}: {found['kept']:,} of {found['images']:,} images are in, by {found['curated']:,} curated ones")
    if own.by == "neighbours":
        again = f"{found['found_again']:,} times a neighbour was found again by another curated image"
        tell(f"{again}; recall of the search: {found['recall']:.4f}")
    else:
        tell(f"{found['taken']:,} of {found['clusters']:,} clusters hold {own.at_least} curated images or more")
    say_changed(out)
    return 0


def run_sample(out: str, own: Any) -> int:
    from dinolab.curation.sample import sample
    from dinolab.features.store import open_store

    found = sample(open_store(out), own, shown())
    levels = ", ".join(f"{count:,}" for count in found["clusters"])
    tell(f"{out}: {found['kept']:,} of {found['images']:,} images are in; clusters of each level: {levels}")
    say_changed(out)
    return 0


def run_all(out: str, own: Any) -> int:
    from dinolab.curation.options import DedupOptions, EmbedOptions, RetrieveOptions

    stages = ((run_embed, EmbedOptions), (run_dedup, DedupOptions), (run_retrieve, RetrieveOptions))
    return max(run(out, own.part(schema)) for run, schema in stages)


def run_review(out: str, own: Any) -> int:
    refuse_many("review")
    from dinolab.curation.review import review
    from dinolab.features.store import open_store

    found = review(open_store(out), own)
    say(
        f"{out}: {found['kept']:,} images are in, after decisions about {found['decisions']:,}: {found['dropped']:,} of "
        f"{found['images']:,} are left out, and {found['brought_back']:,} brought back"
    )
    say_changed(out)
    return 0


def run_explain(out: str, image: str) -> int:
    from dinolab.curation.decisions import explain
    from dinolab.features.store import open_store

    say(*explain(open_store(out), image))
    say_changed(out)
    return 0


def say_changed(out: str) -> None:
    """Say so where an audit is of the set as it was before."""
    from dinolab.curation.findings import changed_since

    say(*changed_since(Path(out)))


def run_export(out: str, own: Any) -> int:
    refuse_many("export")
    from dinolab.curation.export import export
    from dinolab.features.store import open_store

    found = export(open_store(out), own, sys.stderr.isatty())
    there = f", {found['there']:,} of which were there" if found["there"] else ""
    say(f"{own.to}: {found['images']:,} images in {found['files']:,} files{there}")
    return 0


def run_audit(out: str, own: Any) -> int:
    refuse_many("audit")
    from dinolab.curation.audit import audit
    from dinolab.curation.findings import LEAK, LISTED, write_audit
    from dinolab.features.store import open_store
    from dinolab.report.audited import PAGE, audit_page

    found = audit(open_store(out), own, sys.stderr.isatty())
    folder = write_audit(found, own, audit_page(found, own.shown).encode(errors="replace"), PAGE)
    say(f"{out}: {found.images:,} images audited; recall of the search for neighbours: {found.recall:.4f}")
    for kind, one in found.found.items():
        say(f"{len(one):>8,}  {kind.title.lower()}")
        if kind == LEAK:
            say(*(f"{count:>12,}  between {a} and {b}" for (a, b), count in found.leaks.items()))
    say(f"the worst of each kind, with pictures: {folder / PAGE}", f"all of them: {folder / LISTED}")
    return 0
