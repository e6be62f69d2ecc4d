"""dinolab show attention, pca, similarity, neighbours, video and action."""

import argparse
import sys
from pathlib import Path
from typing import Any

from dinolab.cli.parse import at_least
from dinolab.errors import UserError

MOST_IMAGES = 32  # of a sheet
MAPS = ("attention", "pca", "similarity")  # that a video can show


def add(verbs: Any) -> None:
    show = verbs.add_parser("show", help="pictures of what a run has learned, on your images")
    whats = show.add_subparsers(title="pictures", required=True, metavar="WHAT")
    about = {
        "attention": "where each head of the last block looks; with --masks, how well that covers the objects",
        "pca": "patch features as colours, shared by all images",
        "similarity": "which patches of all images are like one of the first",
        "neighbours": "the images of --data that are most like each",
        "video": "one of the first three over a clip, beside it",
        "action": "a clip beside attention and PCA, with the class that it is taken for over time",
    }
    attention, pca, similarity, neighbours, video, action = parsers = [
        whats.add_parser(name, help=text, description=text) for name, text in about.items()
    ]
    for what in parsers:
        what.add_argument("encoder", metavar="RUN", help="a run's folder")
    for what in (attention, pca, similarity, neighbours):
        what.add_argument("images", nargs="+", metavar="IMAGE", help="image files and folders of images")
        what.set_defaults(verb=run_show)
    for name, what in zip(about, parsers):
        ending = ".mp4" if what in (video, action) else ".png"
        what.add_argument("--out", type=Path, metavar=f"FILE{ending}", help=f"default show_{name}{ending} in RUN")
        what.add_argument("--size", type=at_least(1), help="short side in pixels that the encoder sees")
        what.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
        what.set_defaults(what=name, ending=ending)
    attention.add_argument("--mass", type=share, default=0.6, help="share of attention in the masks (default 0.6)")
    attention.add_argument(
        "--masks", type=Path, metavar="DIR", help="true masks, images of the same names, black outside"
    )
    neighbours.add_argument(
        "--data", required=True, metavar="DIR|CSV", help="images to look among; what data.path takes"
    )
    neighbours.add_argument("-k", type=at_least(1), default=7, help="neighbours of each image (default 7)")
    for what in (similarity, video):
        what.add_argument(
            "--at", nargs=2, type=float, metavar=("X", "Y"), default=(0.5, 0.5),
            help="a point of the first image: fractions below 1, or pixels (default 0.5 0.5)",
        )  # fmt: skip
    video.add_argument("clip", metavar="CLIP", help="a video file, or a folder of frames")
    video.add_argument("--what", dest="map", choices=MAPS, default=MAPS[0], help="default attention")
    video.add_argument("--head", type=at_least(1), help="of attention, from 1 (default: the mean of all)")
    video.set_defaults(verb=run_video)
    action.add_argument("clip", metavar="CLIP", help="a video file, or a folder of images, each shown for a second")
    action.add_argument("--train", required=True, metavar="DIR|CSV", help="labelled images to learn the classes from")
    action.add_argument("--title", default="", help="of the video (default: the clip's name)")
    action.set_defaults(verb=run_action, precision="fp32", workers=None, cache=None)  # of the labelled images' features


def share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 and up to 1, as 0.6")
    return number


def run_show(args: argparse.Namespace) -> int:
    from dinolab.visuals.images import (
        as_fractions,
        find_images,
        fit_patches,
        read_mask,
        read_picture,
        spread,
        usual_size,
    )

    out = choose_out(args)
    found = find_images(args.images)
    shown = spread(found, MOST_IMAGES)
    if len(shown) < len(found):
        print(f"dinolab: {len(shown)} of {len(found):,} images are shown, evenly spaced", file=sys.stderr)
    encoder = open_encoder(args)
    if args.what == "neighbours":
        from dinolab.data.sources import open_source
        from dinolab.visuals.neighbours import neighbours_sheet

        size = args.size or getattr(encoder, "image_size", 224)
        source = open_source(args.data, option="--data")
        neighbours_sheet(encoder, [f.path for f in shown], source, args.k, size, out, sys.stderr.isatty())
        print(out)
        return 0

    pictures = [read_picture(f.path) for f in shown]
    size = args.size or usual_size(encoder, pictures[0])
    images = [fit_patches(p, encoder.patch_size, size, str(f.path)) for f, p in zip(shown, pictures)]
    if args.what == "attention":
        from dinolab.visuals.attention import attention_sheet

        masks = [read_mask(f, args.masks) for f in shown] if args.masks else None
        overlap = attention_sheet(encoder, images, out, args.mass, masks)
        if overlap:
            heads = "  ".join(f"{n}: {value:.3f}" for n, value in enumerate(overlap["heads"], 1))
            print(
                f"Jaccard index, mean of {len(shown)} images, by head: {heads}; best: head {overlap['best_head'] + 1}"
            )
    elif args.what == "pca":
        from dinolab.visuals.pca import pca_sheet

        pca_sheet(encoder, images, out)
    else:
        from dinolab.visuals.similarity import similarity_sheet

        similarity_sheet(encoder, images, as_fractions(args.at, *pictures[0].shape[:2]), out)
    print(out)
    return 0


def run_video(args: argparse.Namespace) -> int:
    from dinolab.visuals.video import make_video

    out = choose_out(args)
    encoder = open_encoder(args)
    frames = make_video(encoder, Path(args.clip), out, args.map, args.size, args.head, args.at, sys.stderr.isatty())
    print(f"{out}: {frames:,} frames")
    return 0


def run_action(args: argparse.Namespace) -> int:
    from dinolab.cli.evaluate import feature_options
    from dinolab.data.sources import open_source
    from dinolab.evals.logreg import classifier
    from dinolab.visuals.action_video import action_video
    from dinolab.visuals.clip import import_av, open_photos

    out = choose_out(args)
    import_av()
    open_photos(args.clip)  # or say that it is none before the features are computed
    source = open_source(args.train, need_labels=True, option="--train")
    if len(source.classes) < 2:
        raise UserError(f"--train {args.train}: images of two classes or more are needed, these are of one")
    encoder, options = open_encoder(args), feature_options(args)
    classify = classifier(encoder, source, **options | {"size": args.size or encoder.image_size})
    frames = action_video(
        encoder, classify, source.classes, args.clip, out, args.title, args.size, progress=options["progress"]
    )
    print(f"{out}: {frames:,} frames")
    return 0


def open_encoder(args: argparse.Namespace) -> Any:
    from dinolab.parallel import choose_device
    from dinolab.weights.load import load

    return load(args.encoder).to(choose_device(args.device, "--device "))


def choose_out(args: argparse.Namespace) -> Path:
    """What --out names, if it is new; else a name of our own in the run's folder, or here, which is written over."""
    if args.out is None:
        run = Path(args.encoder)
        return (run if run.is_dir() else Path()) / f"show_{args.what}{args.ending}"
    if args.out.suffix.lower() != args.ending:
        raise UserError(f"--out {args.out}: must end in {args.ending}")
    if args.out.exists():
        raise UserError(f"--out {args.out}: exists already; name another file, or remove it")
    return args.out
