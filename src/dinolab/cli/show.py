"""dinolab show attention, pca, similarity, neighbours, video and action."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinolab.cli.grammar import Family, Positional, Verb
from dinolab.errors import UserError, say
from dinolab.fields import option
from dinolab.options import Columns

MOST_IMAGES = 32  # of a sheet
MAPS = ("attention", "pca", "similarity")  # that a video can show
POINT = "point of the first image as X,Y: fractions below 1, or pixels"


@dataclass
class Picture:
    out: str = option("", "file to write, a new one (empty: show_WHAT in the run's folder, which is overwritten)")
    size: int = option(0, "short side in pixels of the images that the encoder gets (0: chosen by the images)", 0)
    device: str = option("auto", "auto, cpu, cuda, mps")

    def written(self, out: Path) -> list[Path]:
        """The files and folders that are written, the picture `out` last."""
        return [out]


@dataclass
class Maps(Picture):
    arrays: bool = option(False, "also write the maps as NumPy arrays, into an .npz file beside the picture")

    def written(self, out: Path) -> list[Path]:
        return [out.with_suffix(".npz"), out] if self.arrays else [out]


@dataclass
class Attention(Maps):
    mass: float = option(0.6, "share of the attention that the predicted masks cover", 0.001, 1)
    masks: str = option("", "folder of true masks, images of the same names, black outside of the objects")
    heads: bool = option(False, "also write each head's map as a PNG, into a folder beside the picture")

    def written(self, out: Path) -> list[Path]:
        return [out.with_suffix(""), *super().written(out)] if self.heads else super().written(out)


@dataclass
class Similarity(Maps):
    at: list[float] = option([0.5, 0.5], POINT, 0)


@dataclass
class Neighbours(Columns, Picture):
    data: str = option("", "images to search, as data.path takes them", required=True)
    k: int = option(7, "number of neighbours of each image", 1)


@dataclass
class Video(Picture):
    map: str = option(MAPS[0], "what is shown beside the clip", choices=MAPS)
    head: int = option(0, "attention head, from 1 (0: the mean of all)", 0)
    mass: float = option(
        0.0, "show only the patches that hold this share of the attention, for example 0.6 (0: all)", 0, 1
    )
    at: list[float] = option([0.5, 0.5], f"with map=similarity: {POINT}", 0)


@dataclass
class Action(Columns, Picture):
    train: str = option("", "labelled images to train the classifier on, as data.path takes them", required=True)
    title: str = option("", "title of the video (empty: the clip's name)")


def open_images(images: list[str]) -> list[Any]:
    from dinolab.visuals.images import find_images, spread

    found = find_images(images)
    shown = spread(found, MOST_IMAGES)
    if len(shown) < len(found):
        print(f"dinolab: {len(shown)} of {len(found):,} images are shown, evenly spaced", file=sys.stderr)
    return shown


def open_fitted(encoder: Any, shown: Sequence[Any], own: Picture) -> tuple[list[Any], list[Any]]:
    """The pictures as they are, and as tensors whose sides are multiples of the patch."""
    from dinolab.visuals.images import fit_patches, read_picture, usual_size

    pictures = [read_picture(f.path) for f in shown]
    size = own.size or usual_size(encoder, pictures[0])
    return pictures, [fit_patches(p, encoder.patch_size, size, str(f.path)) for f, p in zip(shown, pictures)]


def finish(out: Path, own: Maps, shown: Sequence[Any], maps: dict[str, Any]) -> int:
    """Write the arrays, if they are asked for, and print what has been written."""
    from dinolab.visuals.arrays import write_arrays

    if own.arrays:
        write_arrays(out.with_suffix(".npz"), [f.path for f in shown], maps)
    say(*own.written(out))
    return 0


def run_attention(run: str, paths: list[str], own: Attention) -> int:
    from dinolab.visuals.attention import attention_sheet, write_heads
    from dinolab.visuals.images import read_mask

    out, shown, encoder = choose_out(run, own, "attention", ".png"), open_images(paths), open_encoder(run, own)
    _, images = open_fitted(encoder, shown, own)
    masks = [read_mask(f, Path(own.masks)) for f in shown] if own.masks else None
    maps, overlap = attention_sheet(encoder, images, out, own.mass, masks)
    if own.heads:
        write_heads(out.with_suffix(""), images, maps)
    if overlap:
        heads = "  ".join(f"{n}: {value:.3f}" for n, value in enumerate(overlap["heads"], 1))
        best = overlap["best_head"] + 1
        say(f"Jaccard index, mean of {len(shown)} images, by head: {heads}; best: head {best}")
    return finish(out, own, shown, {"attention": maps})


def run_pca(run: str, paths: list[str], own: Maps) -> int:
    from dinolab.visuals.pca import pca_sheet

    out, shown, encoder = choose_out(run, own, "pca", ".png"), open_images(paths), open_encoder(run, own)
    maps = pca_sheet(encoder, open_fitted(encoder, shown, own)[1], out)
    arrays = {"components": [one.components for one in maps], "foreground": [one.foreground for one in maps]}
    return finish(out, own, shown, arrays)


def run_similarity(run: str, paths: list[str], own: Similarity) -> int:
    from dinolab.visuals.images import as_fractions
    from dinolab.visuals.similarity import similarity_sheet

    out, shown, encoder = choose_out(run, own, "similarity", ".png"), open_images(paths), open_encoder(run, own)
    pictures, images = open_fitted(encoder, shown, own)
    maps = similarity_sheet(encoder, images, as_fractions(own.at, *pictures[0].shape[:2]), out)
    return finish(out, own, shown, {"similarity": maps})


def run_neighbours(run: str, paths: list[str], own: Neighbours) -> int:
    from dinolab.data.sources import open_source
    from dinolab.visuals.neighbours import neighbours_sheet

    out, shown, encoder = choose_out(run, own, "neighbours", ".png"), open_images(paths), open_encoder(run, own)
    size = own.size or getattr(encoder, "image_size", 224)
    source = open_source(own.data, own, option="data")
    neighbours_sheet(encoder, [f.path for f in shown], source, own.k, size, out, sys.stderr.isatty())
    say(out)
    return 0


def run_video(run: str, clip: str, own: Video) -> int:
    from dinolab.visuals.video import make_video

    out = choose_out(run, own, "video", ".mp4")
    encoder, size, head = open_encoder(run, own), own.size or None, own.head or None
    frames = make_video(
        encoder, Path(clip), out, own.map, size, head, (own.at[0], own.at[1]), sys.stderr.isatty(), own.mass
    )
    say(f"{out}: {frames:,} frames")
    return 0


def run_action(run: str, clip: str, own: Action) -> int:
    from dinolab.data.sources import open_source
    from dinolab.evals.logreg import classifier
    from dinolab.features.inputs import extraction_arguments
    from dinolab.features.options import FeatureOptions
    from dinolab.visuals.action_video import action_video
    from dinolab.visuals.clip import import_av, open_photos

    out = choose_out(run, own, "action", ".mp4")
    import_av()
    open_photos(clip)  # a mistake here is better found before the features are computed
    source = open_source(own.train, own, need_labels=True, option="train")
    if len(source.classes) < 2:
        raise UserError(f"train={own.train}: images of two classes or more are needed, these are of one")
    encoder, progress = open_encoder(run, own), sys.stderr.isatty()
    how = FeatureOptions(size=str(own.size or ""), device=own.device)
    classify = classifier(encoder, source, **extraction_arguments(encoder, how, progress))
    size = own.size or None
    frames = action_video(encoder, classify, source.classes, clip, out, own.title, size, progress=progress)
    say(f"{out}: {frames:,} frames")
    return 0


def open_encoder(run: str, own: Picture) -> Any:
    from dinolab.parallel import choose_device
    from dinolab.weights.load import load

    return load(run).to(choose_device(own.device, "device="))


def choose_out(run: str, own: Picture, what: str, ending: str) -> Path:
    """The file that out= names, which must be new; by default show_WHAT in the run's folder or here, which is overwritten."""
    if not own.out:
        folder = Path(run)
        return (folder if folder.is_dir() else Path()) / f"show_{what}{ending}"
    out = Path(own.out)
    if out.suffix.lower() != ending:
        raise UserError(f"out={out}: must end in {ending}")
    for path in own.written(out)[::-1]:
        if path.exists():
            raise UserError(f"out={out}: {path} exists already; name another file, or remove it")
    return out


RUN = Positional("RUN_OR_MODEL", "a run's folder, a .pth file, hf:NAME, timm:NAME or `starter`")
IMAGES = Positional("IMAGE", "image files and folders of images", several=True)
CLIP = Positional("CLIP", "a video file, or a folder of images")

PICTURES = {
    "attention": Verb(
        "the last block's attention, head by head",
        run_attention,
        about="Show where each attention head of the last block looks. With masks=, also print how well each head's attention covers "
        "the objects.",
        positionals=(RUN, IMAGES),
        options=(Attention,),
    ),
    "pca": Verb(
        "patch features as colours, by a PCA over all images", run_pca, positionals=(RUN, IMAGES), options=(Maps,)
    ),
    "similarity": Verb(
        "how similar all patches are to one patch of the first image",
        run_similarity,
        positionals=(RUN, IMAGES),
        options=(Similarity,),
    ),
    "neighbours": Verb(
        "the most similar images of a data set",
        run_neighbours,
        positionals=(RUN, IMAGES),
        options=(Neighbours,),
    ),
    "video": Verb(
        "a clip beside its attention, PCA or similarity", run_video, positionals=(RUN, CLIP), options=(Video,)
    ),
    "action": Verb(
        "a clip beside attention and PCA, with the predicted class over time",
        run_action,
        positionals=(RUN, CLIP),
        options=(Action,),
    ),
}

SHOW = Family("pictures of what a run has learned, on your images", lambda: PICTURES, "picture")
