"""Images, sources of images, videos, and the ground truth of image retrieval."""

import io
import json
import os
import pickle
import tarfile
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dinolab.data.decode import BrokenImage, decode, jpeg_size, read_image
from dinolab.data.sources import open_source
from dinolab.data.sources.curated import DECISIONS, MANIFEST
from dinolab.data.tables import arrow, write_table
from dinolab.errors import UserError
from dinolab.evals.depth_maps import Depths
from dinolab.evals.label_images import read_labels
from dinolab.evals.label_maps import Labels, read_mapping
from dinolab.evals.retrieval_truth import read_truth
from fuzzing.kind import Kind
from fuzzing.mutate import in_gzip, in_json, in_pickle, in_png, in_tar, raw, text

SIDE = 24  # pixels
PILLOW = {
    "a.gif": "RGB",
    "b.webp": "RGB",
    "alpha.webp": "RGBA",
    "alpha.png": "LA",
    "palette.png": "P",
    "a.jp2": "RGB",
    "a.ppm": "RGB",
}
OPENCV = ("a.png", "a.jpg", "a.bmp", "a.tif")


def noise(dtype: type = np.uint8, channels: int = 3) -> np.ndarray:
    """A picture of noise, (SIDE, SIDE, channels)."""
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (SIDE, SIDE, channels), dtype)


def make_images(folder: Path) -> None:
    for name in OPENCV:
        cv2.imwrite(str(folder / name), noise())
    for name in ("deep.png", "deep.tif"):
        cv2.imwrite(str(folder / name), noise(np.uint16))
    for name, mode in PILLOW.items():
        Image.fromarray(noise()).convert(mode).save(folder / name)
    Image.fromarray(noise(np.uint16)[..., 0].astype(np.int32)).save(folder / "whole.tif")
    Image.fromarray(noise()).save(folder / "packed.tif", compression="tiff_lzw")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()).save(folder / "turned.jpg", exif=exif, progressive=True)


def read_one(folder: Path, name: str) -> None:
    """As evaluations read an image, and as the loader does, which decodes large JPEGs at half their size."""
    data = (folder / name).read_bytes()
    with suppress(BrokenImage):
        read_image(folder / name)
    with suppress(BrokenImage):
        jpeg_size(data)
        decode(data, name, 2)


def list_and_read(folder: Path, name: str) -> None:
    """The images of a source, and the first few of them decoded."""
    source = open_source(str(folder / name))
    for path in source.paths[:3]:
        with suppress(BrokenImage):
            read_image(path)


def picture_bytes() -> bytes:
    return cv2.imencode(".png", noise())[1].tobytes()


def make_cifar(folder: Path) -> None:
    """CIFAR-100's files with three images."""
    data = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    for name, content in (
        ("test", {"data": data, "fine_labels": [0, 1, 0]}),
        ("meta", {"fine_label_names": ["a", "b"]}),
    ):
        (folder / name).write_bytes(pickle.dumps(content, 2))


def read_cifar(folder: Path, name: str) -> None:
    list_and_read(folder, "test")


def make_shard(folder: Path) -> None:
    members = {
        "a.png": picture_bytes(),
        "a.cls": b"3",
        "b.jpg": picture_bytes(),
        "b.json": b'{"label": "cat", "cls": 4}',
    }
    with tarfile.open(folder / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (members | {"ü" * 120 + ".png": picture_bytes()}).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def make_dataset(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    columns = {"image": [{"bytes": picture_bytes(), "path": "a.png"}] * 3, "label": [0, 1, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    made = datasets.Dataset.from_dict(columns, features=features)
    made.to_parquet(folder / "a.parquet")
    made.save_to_disk(folder / "saved")


def read_dataset(folder: Path, name: str) -> None:
    import datasets

    datasets.disable_progress_bars()
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    list_and_read(folder, name.split("/", maxsplit=1)[0])


def make_curated(folder: Path) -> None:
    (folder / "set").mkdir()
    cv2.imwrite(str(folder / "a.png"), noise())
    (folder / "set" / MANIFEST).write_text("{}")
    columns = {"location": [str(folder / "a.png")] * 3, "label": ["cat", "dog", "dog"], "kept": [True, False, True]}
    write_table(folder / "set" / DECISIONS, arrow().table(columns))


def read_curated(folder: Path, name: str) -> None:
    list_and_read(folder, "set")


def make_lists(folder: Path) -> None:
    for n in range(4):
        (folder / f"{n}.png").write_bytes(picture_bytes())
    (folder / "a.csv").write_text('filename,label\n0.png,cat\n1.png,"dog, small"\n2.png,cat\n3.png,dog\n')
    (folder / "b.csv").write_text("filename;label\n0.png;cat\n1.png;dog\n", encoding="utf-16")
    (folder / "a.txt").write_text("0.png\n1.png\n2.png\n")
    (folder / "b.txt").write_text("0.png cat\n1.png dog\n")


def make_listing(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        (folder / "images" / name / "0.png").write_bytes(picture_bytes())
    open_source(str(folder / "images"), cache=folder / "listing.json.gz")


def read_listing(folder: Path, name: str) -> None:
    """A damaged cache is made anew; one with other names leads to images that are not there."""
    source = open_source(str(folder / "images"), cache=folder / name)
    for path in source.paths[:3]:
        with suppress(BrokenImage):
            read_image(path)


def make_videos(folder: Path) -> None:
    import av

    for name, codec in (("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mkv", "ffv1")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=24)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for shade in range(4):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 60 * shade, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def show_video(folder: Path, name: str) -> None:
    """`dinolab show video` with a tiny network."""
    from dinolab.models.encoder import BackboneEncoder
    from dinolab.models.vit import ViT
    from dinolab.options import Model
    from dinolab.visuals.video import make_video

    encoder = BackboneEncoder(ViT(Model(dim=16, depth=1, heads=1, patch_size=16), 32), {}).eval()
    make_video(encoder, folder / name, folder / "out.mp4", size=32)


def read_mask(folder: Path, name: str) -> None:
    read_labels(folder / name)


def make_masks(folder: Path) -> None:
    grey = Image.fromarray(noise()[..., 0] % 4)
    grey.save(folder / "grey.png")
    grey.putpalette(bytes(range(12)))
    grey.save(folder / "palette.png")
    Image.fromarray(noise(np.uint16)[..., 0] % 4).save(folder / "deep.png")


def make_truths(folder: Path) -> None:
    lists = {"easy": [0], "hard": [1], "junk": [2]}
    truth = {"imlist": ["a", "b", "c"], "qimlist": ["d"], "gnd": [{"bbx": [1.0, 2.0, 30.0, 40.0], **lists}]}
    (folder / "gnd_a.json").write_text(json.dumps(truth))
    for protocol in (0, 2, 4, 5):
        (folder / f"gnd_{protocol}.pkl").write_bytes(pickle.dumps(truth, protocol))
        arrays = {name: np.array(places) for name, places in lists.items()}
        arrayed = {**truth, "gnd": [{"bbx": [np.float64(1), 2.0, 30.0, 40.0], **arrays}]}
        (folder / f"gnd_arrays_{protocol}.pkl").write_bytes(pickle.dumps(arrayed, protocol))


def read_ground_truth(folder: Path, name: str) -> None:
    read_truth(folder / name)


def make_maps(folder: Path) -> None:
    labels = noise()[..., 0] % 3
    Image.fromarray(labels).save(folder / "index.png")
    Image.fromarray(noise()).convert("P").save(folder / "palette.png")
    Image.fromarray(noise()).save(folder / "colours.png")
    Image.fromarray(noise(np.uint16)[..., 0]).save(folder / "depths.png")
    Image.fromarray(noise(np.uint16)[..., 0]).save(folder / "depths.tif")
    (folder / "classes.csv").write_text("name,r,g,b\nroad,0,0,0\nsky,1,2,3\n")
    (folder / "classes.json").write_text('{"road": [0, 0, 0], "sky": [1, 2, 3], "car": 7}')


def read_maps(folder: Path, name: str) -> None:
    """A map as segmentation and depth read it, or a file that names classes."""
    if name.startswith("classes"):
        read_mapping(folder / name)
        return
    for read in (Labels(["road", "sky"], colours={0: 0, 1: 1}).read, Depths(1000).read):
        with suppress(BrokenImage, UserError):
            read(str(folder / name))


KINDS = {
    "image": Kind(make_images, {"*": raw, "*.png": in_png}, read_one),
    "mask": Kind(make_masks, {"*.png": in_png}, read_mask),
    "tar": Kind(make_shard, {"*.tar": in_tar}, list_and_read),
    "dataset": Kind(make_dataset, {"*.parquet": raw, "saved/*.arrow": raw, "saved/*.json": in_json}, read_dataset),
    "cifar": Kind(make_cifar, {"*": raw}, read_cifar),
    "curated": Kind(make_curated, {"set/*.parquet": raw}, read_curated),
    "lists": Kind(make_lists, {"*.csv": text, "*.txt": text}, list_and_read),
    "listing": Kind(make_listing, {"listing.json.gz": in_gzip}, read_listing),
    "truth": Kind(make_truths, {"*.json": in_json, "*.pkl": in_pickle}, read_ground_truth),
    "maps": Kind(make_maps, {"*.png": in_png, "*.tif": raw, "*.csv": text, "*.json": in_json}, read_maps),
    "video": Kind(make_videos, {"*": raw}, show_video),
}
