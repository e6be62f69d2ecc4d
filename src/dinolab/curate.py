"""`dinolab curate` from Python: a function for each of its commands, with the command's options as keywords.

    from dinolab import curate

    curate.embed("sets/heap", "heap", encoder="starter")
    curate.dedup("sets/heap", against="test")["kept"]

Options have the defaults and limits of the command line, with two exceptions: images are embedded on the CPU, and no processes that load
images are started, unless `device` and `workers` say otherwise. None stands for the default.
"""

from pathlib import Path
from typing import Any, TypeVar

from dinolab import parallel
from dinolab.config import keyword_options
from dinolab.curation import audit as auditing
from dinolab.curation import dedup as deduplication
from dinolab.curation import export as exporting
from dinolab.curation import retrieve as retrieval
from dinolab.curation import review as reviewing
from dinolab.curation import sample as sampling
from dinolab.curation.embed import embed_store
from dinolab.curation.embedder import make_embedder
from dinolab.curation.explain import explain as explain_row
from dinolab.curation.findings import Audit, write_audit
from dinolab.curation.folder import opened
from dinolab.curation.options import (
    AuditOptions,
    DedupOptions,
    EmbedOptions,
    ExportOptions,
    PlanOptions,
    RetrieveOptions,
    ReviewOptions,
    SampleOptions,
)
from dinolab.curation.parts import crew
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.features.inputs import open_encoder, python_options
from dinolab.features.store import Store, open_store
from dinolab.parallel import choose_device
from dinolab.progress import NOTEBOOK

__all__ = ["audit", "dedup", "embed", "explain", "export", "plan", "retrieve", "review", "sample"]
T = TypeVar("T")
Figures = dict[str, Any]


def embed(
    out: str | Path, data: str | Path, encoder: str | Path = "starter", *, progress: bool = NOTEBOOK, **options: Any
) -> Store:
    """Embed images into the set in the folder `out`, those alone that are new or have changed.

    Args:
        data: images, as `data.path` takes them.
        encoder: what `dinolab.load` takes, or "pixels".
        options: see `dinolab curate embed --help`.

    Returns:
        The store: its `manifest`, `rows` (facts about the images), and `vectors(rows)`, the embeddings.

    Raises:
        UserError: an option is wrong, `out` is no folder for a set or one of another encoder, or no image can be read.
    """
    chosen = read(EmbedOptions, "embed", python_options("", {"data": data, "encoder": encoder, **options}))
    source = open_source(chosen.data, chosen, need_labels="label_column" in chosen.chosen(), option="data")
    return embed_store(Path(out), source, make_embedder(*open_encoder(chosen.encoder), chosen, progress))


def dedup(out: str | Path, *, progress: bool = NOTEBOOK, **options: Any) -> Figures:
    """Keep one image of each group of copies, and none that is near a test image.

    Args:
        options: see `dinolab curate dedup --help`.

    Returns:
        How many "images" there were, how many were "kept", how many went for each reason, and the "recall" of the search.

    Raises:
        UserError: an option is wrong, there is no set in `out`, no image would be left, or another command is writing to it.
    """
    chosen = read(DedupOptions, "dedup", python_options("", options))
    with opened(out) as store:
        return deduplication.dedup(store, chosen, progress)


def retrieve(out: str | Path, curated: str | Path, *, progress: bool = NOTEBOOK, **options: Any) -> Figures:
    """Keep the images that are like curated ones.

    Args:
        curated: images that show what is wanted, as `data.path` takes them.
        options: see `dinolab curate retrieve --help`.

    Returns:
        How many "images" there were, how many were "kept", and further figures of the search.

    Raises:
        UserError: as of `dedup`.
    """
    chosen = read(RetrieveOptions, "retrieve", python_options("", {"curated": curated, **options}))
    with opened(out) as store:
        return retrieval.retrieve(store, chosen, progress)


def sample(out: str | Path, size: int, *, progress: bool = NOTEBOOK, **options: Any) -> Figures:
    """Draw a balanced sample of `size` images, by hierarchical k-means.

    Args:
        options: see `dinolab curate sample --help`.

    Returns:
        How many "images" there were, how many were "kept", and the number of "clusters" of each level.

    Raises:
        UserError: as of `dedup`; or fewer images are left than are to be drawn.
    """
    chosen = read(SampleOptions, "sample", {"size": size, **options})
    with opened(out) as store:
        return sampling.sample(store, chosen, progress)


def review(out: str | Path, decisions: str | Path | None = None) -> Figures:
    """Leave out, keep or bring back the images that a person has decided about in a CSV file, by default `out`/review.csv.

    Returns:
        How many "images" there were, how many are "kept", and how many were "dropped" and "brought_back".

    Raises:
        UserError: as of `dedup`; or the file is no list of decisions.
    """
    refuse_many("review")
    chosen = read(ReviewOptions, "review", {"decisions": decisions})
    with opened(out) as store:
        return reviewing.review(store, chosen)


def audit(out: str | Path, *, progress: bool = NOTEBOOK, **options: Any) -> Audit:
    """Find copies, leaks, outliers, faulty images and doubtful labels; write them to the folder `out`/audit.

    Args:
        options: see `dinolab curate audit --help`.

    Returns:
        The findings of each kind, the worst first.

    Raises:
        UserError: an option is wrong, there is no set in `out` or only one image in it, or another command is writing to it.
    """
    from dinolab.report.audited import PAGE, audit_page  # here, for it takes long and serves nothing else

    refuse_many("audit")
    chosen = read(AuditOptions, "audit", options)
    with opened(out) as store:
        found = auditing.audit(store, chosen, progress)
        write_audit(found, chosen, audit_page(found, chosen.shown).encode(errors="replace"), PAGE)
    return found


def explain(out: str | Path, image: str | int) -> list[str]:
    """Why an image is in or out: a sentence for each stage.

    Args:
        image: its path, or the end of it, as decisions.csv has it; or its row there, from 0 on.

    Raises:
        UserError: there is no set in `out`, or no such image, or several are called so.
    """
    return explain_row(open_store(out), str(image))


def export(out: str | Path, to: str | Path, *, progress: bool = NOTEBOOK, **options: Any) -> dict[str, int]:
    """Write the images that are in, with their embeddings, as Parquet files to the folder `to`.

    Args:
        options: see `dinolab curate export --help`.

    Returns:
        The number of "images" and "files", and of files that were "there".

    Raises:
        UserError: an option is wrong, `to` holds something else, or an image is no longer what was embedded.
    """
    refuse_many("export")
    chosen = read(ExportOptions, "export", {"to": to, **options})
    return exporting.export(open_store(out), chosen, progress)


def plan(out: str | Path, data: str | Path | None = None, **options: Any) -> list[str]:
    """Forecast the time, memory and disk of each stage, from small pieces of the work that are measured; nothing is written.

    Args:
        data: images, as `data.path` takes them; by default those of the set, which need not be embedded again.
        options: see `dinolab curate plan --help`.

    Returns:
        The lines of a table.

    Raises:
        UserError: an option is wrong, or there is neither `data` nor a set in `out`.
    """
    from dinolab.plan.curation import plan_curation  # here, for it takes long and serves nothing else

    refuse_many("plan")
    chosen = read(PlanOptions, "plan", python_options("", {"data": data, **options}))
    source = open_source(chosen.data, option="data") if chosen.data else None
    store = None if source else open_store(out)
    embedder = make_embedder(*open_encoder(chosen.encoder), chosen, False) if source else None
    images, width = chosen.images or len(source or store or ()), store.width if store else 0
    device = choose_device(chosen.search_device, "search_device=")
    return plan_curation(images, width, chosen.curated, device, embedder, source)


def read(schema: type[T], command: str, values: dict[str, Any]) -> T:
    """A command's options from keywords, checked as those of the command line are."""
    return keyword_options(schema, values, see=f"dinolab curate {command} --help")


def refuse_many(command: str) -> None:
    """Raises UserError where there are several processes, of torchrun or of a SLURM array, for what runs in one."""
    parallel.refuse_many(f"dinolab curate {command}")
    if crew().world > 1:
        raise UserError(
            f"dinolab curate {command} runs in one process; unset SLURM_ARRAY_TASK_ID in one task of the array"
        )
