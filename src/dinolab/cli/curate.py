"""dinolab curate plan, embed, dedup, retrieve, sample, all, review, explain, audit and export."""

from functools import partial

from dinolab.cli.curate_stages import (
    run_all,
    run_audit,
    run_dedup,
    run_embed,
    run_explain,
    run_export,
    run_plan,
    run_retrieve,
    run_review,
    run_sample,
)
from dinolab.cli.grammar import Family, Positional, Verb

OUT = Positional("OUT", "folder of the curated set")


def options_of(name: str) -> tuple[type, ...]:
    from dinolab.curation import options

    return (getattr(options, name),)


def members() -> dict[str, Verb | Family]:
    stages = {
        "plan": PLAN,
        "embed": EMBED,
        "dedup": DEDUP,
        "retrieve": RETRIEVE,
        "sample": SAMPLE,
        "review": REVIEW,
        "all": ALL,
    }
    return {**stages, "explain": EXPLAIN, "audit": AUDIT, "export": EXPORT}


PLAN = Verb(
    "forecast the time, memory and disk of each stage",
    run_plan,
    about="Measure small pieces of the work on this machine, and forecast each stage from them. Nothing is written.",
    positionals=(OUT,),
    options=partial(options_of, "PlanOptions"),
    examples=("curate plan sets/heap data=heap images=10000000",),
)

EMBED = Verb(
    "embed images once, for all that follows",
    run_embed,
    about="Write embeddings of images, and facts about them, into a folder. A second call embeds only images that were added or "
    "changed; another data= adds to the set.",
    positionals=(OUT,),
    options=partial(options_of, "EmbedOptions"),
    examples=("curate embed sets/heap data=heap encoder=starter",),
)

DEDUP = Verb(
    "keep one of each group of copies, and nothing near test images",
    run_dedup,
    about="Find copies by their bytes, their perceptual hashes and their embeddings. No file is deleted: the set says what is in.",
    positionals=(OUT,),
    options=partial(options_of, "DedupOptions"),
    examples=("curate dedup sets/heap threshold=0.6 against=test",),
)

RETRIEVE = Verb(
    "keep the images that are like curated ones",
    run_retrieve,
    about="Keep the nearest images of each curated image, or images of the clusters into which curated images fall.",
    positionals=(OUT,),
    options=partial(options_of, "RetrieveOptions"),
    examples=("curate retrieve sets/heap curated=photos per_image=4",),
)

SAMPLE = Verb(
    "draw a balanced sample, from a hierarchy of clusters",
    run_sample,
    about="Draw images so that rare kinds count as much as frequent ones, by hierarchical k-means (arXiv 2405.15613).",
    positionals=(OUT,),
    options=partial(options_of, "SampleOptions"),
    examples=("curate sample sets/heap size=100000",),
)

REVIEW = Verb(
    "leave out, keep or bring back images that a person has decided about",
    run_review,
    about="Take the decisions of a CSV file with the columns image and decision (keep or drop), such as an audit's findings.csv with "
    "that column filled in. They stand above those of the other stages.",
    positionals=(OUT,),
    options=partial(options_of, "ReviewOptions"),
    examples=("curate review sets/heap decisions=sets/heap/audit/findings.csv",),
)

ALL = Verb(
    "embed, dedup and retrieve, with their main options",
    run_all,
    about="The pipeline of DINOv2 (arXiv 2304.07193, figure 3): embed, dedup, retrieve. The verbs of these names have all options.",
    positionals=(OUT,),
    options=partial(options_of, "AllOptions"),
    examples=("curate all sets/heap data=heap curated=photos against=test",),
)

EXPLAIN = Verb(
    "why an image is in or out",
    run_explain,
    about="Print what each stage has decided about an image, and because of which other image.",
    positionals=(
        OUT,
        Positional("IMAGE", "its path, or the end of it, as decisions.csv has it; or its row there, from 0 on"),
    ),
    examples=("curate explain sets/heap cats/17.jpg",),
)

AUDIT = Verb(
    "find what should be looked at: copies, leaks, outliers, doubtful labels",
    run_audit,
    about="Find near-copies, leaks between sources, outliers, blurred, nearly empty and tiny images, and doubtful labels among the "
    "images that are in. Writes OUT/audit/findings.csv, and a page with pictures. Nothing is left out or deleted.",
    positionals=(OUT,),
    options=partial(options_of, "AuditOptions"),
    examples=("curate audit sets/heap shown=50",),
)

EXPORT = Verb(
    "write the images that are in, with their embeddings, as Parquet files",
    run_export,
    about="Write Parquet files that other tools read: images, labels, embeddings, locations and sizes. Interrupted, the same command "
    "goes on with the next file.",
    positionals=(OUT,),
    options=partial(options_of, "ExportOptions"),
    examples=("curate export sets/heap to=exported",),
)

CURATE = Family(
    "make a training set from a heap of images",
    members,
    "stage",
    about="Make a training set from a heap of images. No file is deleted: the set says which images are in. `dinolab train CONFIG "
    "data.path=OUT` trains on them.",
    examples=("curate all sets/heap data=heap curated=photos against=test", "train small_10k data.path=sets/heap"),
)
