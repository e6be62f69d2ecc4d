"""Segmentation and depth on planted images, where the colour says the class and the brightness the depth; layouts and mistakes."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import dinolab
from dinolab.errors import UserError
from dinolab.evals import EVALS, state
from dinolab.evals.contract import Context
from dinolab.evals.dense import DenseEncoder, PatchPixels, Sample, Tokens, TrainingSamples, View
from dinolab.evals.depth_maps import LAYOUTS as DEPTH_LAYOUTS
from dinolab.evals.depth_maps import DepthMaps
from dinolab.evals.label_maps import LAYOUTS as LABEL_LAYOUTS
from dinolab.evals.label_maps import Labels, read_mapping
from dinolab.evals.pairs import as_set, view_size
from dinolab.evals.patch_labels import LinearLabels
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.rundir import PICTURES, RESULT

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
SIZES = [(48, 64), (64, 80), (32, 96)]  # multiples of a patch of PatchPixels: borders of classes lie between patches
PATCH = PatchPixels.patch_size


def write(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def plant_classes(root: Path, images: int, seed: int, form: str = "index") -> None:
    """images/ and maps/ with a class left and another one right of an edge; some pixels do not count."""
    rng = np.random.default_rng(seed)
    for n in range(images):
        height, width = SIZES[n % len(SIZES)]
        labels = np.full((height, width), n % 3, np.uint8)
        labels[:, PATCH * rng.integers(1, width // PATCH) :] = (n + 1 + rng.integers(2)) % 3
        noise = rng.normal(0, 10, (height, width, 3))
        write(root / "images" / f"{n}.png", (COLOURS[labels] + noise).clip(0, 255).astype(np.uint8))
        found = np.where(rng.random(labels.shape) < 0.1, np.uint8(255), labels)
        if form == "colours":
            found = np.concatenate([COLOURS, np.zeros((253, 3), np.uint8)])[found]
        write(root / "maps" / f"{n}.png", found)


def plant_depths(root: Path, images: int, seed: int) -> None:
    """images/ and maps/ with ramps, in millimetres; a tenth of the pixels has no reading."""
    rng = np.random.default_rng(seed)
    for n in range(images):
        height, width = SIZES[n % len(SIZES)]
        near, far = np.sort(rng.uniform(1, 9, 2))
        depths = np.linspace(near, far, width)[None].repeat(height, 0)
        grey = (25 * depths).astype(np.uint8)
        write(root / "images" / f"{n}.png", np.stack([grey] * 3, 2))
        write(root / "maps" / f"{n}.png", np.where(rng.random(depths.shape) < 0.1, 0, 1000 * depths).astype(np.uint16))


def folders(root: Path) -> dict[str, Any]:
    return {side: [root / side / "images", root / side / "maps"] for side in ("train", "test")}


@pytest.fixture
def labelled(tmp_path: Path) -> dict[str, Any]:
    plant_classes(tmp_path / "train", 9, seed=0)
    plant_classes(tmp_path / "test", 6, seed=1)
    return folders(tmp_path)


@pytest.fixture
def depths(tmp_path: Path) -> dict[str, Any]:
    plant_depths(tmp_path / "depths" / "train", 12, seed=0)
    plant_depths(tmp_path / "depths" / "test", 6, seed=1)
    return folders(tmp_path / "depths")


@pytest.fixture
def vit() -> BackboneEncoder:
    return BackboneEncoder(ViT(Model(dim=16, depth=6, heads=2, patch_size=4), 16)).requires_grad_(False).eval()


LINEAR = {"steps": 60, "batch_size": 4, "lr": 0.05}


@pytest.mark.parametrize("head", ["linear", "knn", "kmeans"])
def test_colours_are_segmented(labelled: dict[str, Any], tmp_path: Path, head: str) -> None:
    own = LINEAR | {"classes": 5} if head == "linear" else {}  # two classes that never occur
    result = dinolab.evaluate("segmentation", "pixels", out=tmp_path / "out", head=head, **own, **labelled)
    assert result.figures["miou"].value > 0.95
    assert result.figures["pixel_accuracy"].value > 0.97
    assert set(result.parts) == {"0", "1", "2"} and result.parts["1"]["iou"] > 0.95
    (floor,) = result.other.values()
    assert floor < 0.25  # one of three classes everywhere
    assert result.data["test_images"] == 6
    assert (tmp_path / "out" / RESULT).is_file() and len([*(tmp_path / "out" / PICTURES).glob("*.png")]) == 6


def test_ramps_are_measured(depths: dict[str, Any], tmp_path: Path) -> None:
    result = dinolab.evaluate("depth", "pixels", out=tmp_path / "out", steps=200, lr=0.05, flips=False, **depths)
    (floor,) = result.other.values()
    assert result.main is not None and result.main.value < floor / 3 and result.figures["delta1"].value > 0.9
    assert not EVALS["depth"].main.higher_is_better
    assert len([*(tmp_path / "out" / PICTURES).glob("*.png")]) == 6
    with pytest.raises(UserError, match=r"no training map has a depth between 0.001 and 10.0 m; look at scale="):
        dinolab.evaluate("depth", "pixels", scale=1.0, **depths)


def test_four_blocks_several_scales_and_a_given_size(
    labelled: dict[str, Any], depths: dict[str, Any], vit: Any
) -> None:
    found = dinolab.evaluate("segmentation", vit, blocks=4, scales=[1, 1.5], size=16, steps=2, **labelled)
    assert found.settings["blocks"] == 4 and 0 <= found.figures["miou"].value <= 1
    assert dinolab.evaluate("depth", vit, blocks=4, size="16x24", steps=2, **depths).figures["rmse"].value > 0


def test_no_test_images_means_the_last_of_the_training_images(labelled: dict[str, Any]) -> None:
    result = dinolab.evaluate("segmentation", "pixels", head="knn", held_out=0.34, train=labelled["train"])
    assert (result.data["train_images"], result.data["test_images"]) == (6, 3)


def test_a_stopped_training_continues(
    labelled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dinolab.evaluate("segmentation", "pixels", steps=8, **labelled)
    monkeypatch.setattr(state, "EVERY", 0)
    loss, calls = LinearLabels.loss, []

    def stops(self: LinearLabels, *args: Any) -> Any:
        calls.append(args[1])
        if len(calls) == 6:
            raise KeyboardInterrupt
        return loss(self, *args)

    monkeypatch.setattr(LinearLabels, "loss", stops)
    for _ in range(2):
        try:
            parts = dinolab.evaluate("segmentation", "pixels", steps=8, out=tmp_path / "out", **labelled)
        except KeyboardInterrupt:
            continue
    assert calls == [0, 1, 2, 3, 4, 5, 5, 6, 7]
    assert parts.figures == whole.figures and not [*(tmp_path / "out").glob(state.STATES)]


def context() -> Context:
    return Context((16, 16), "fp32", torch.device("cpu"), 0, None, False, "segmentation", {}, None, 0, None)


def test_features_are_the_same_whether_they_are_kept(
    labelled: dict[str, Any], vit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, maps = labelled["train"]
    pairs = [(str(file), str(maps / file.name)) for file in sorted(images.iterdir())]
    encoder = DenseEncoder.of(vit, 1, False, context())
    kept = TrainingSamples(as_set("train", pairs, Labels([]).read), encoder, None, flips=True)
    monkeypatch.setattr("dinolab.evals.dense.room", lambda: 0)
    fresh = TrainingSamples(kept.pairs, encoder, None, flips=True)
    assert kept.kept and not fresh.kept and len(kept) == len(fresh) == 18
    for number in (0, 1, 7):
        for one, other in zip(kept[number].tokens, fresh[number].tokens, strict=True):
            assert torch.equal(one, other)
        assert torch.equal(kept[number].truth, fresh[number].truth)
    assert torch.equal(kept[1].truth, kept[0].truth.flip(-1))


def test_tokens_of_a_mirror_image_are_mirrored_back() -> None:
    means = PatchPixels()
    means.parts, means.dim = 1, 3  # one colour for each patch
    encoder = DenseEncoder.of(means, 1, False, context())
    image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)  # padded by 4 above and below
    plain, mirrored = (encoder.tokens(image, flip)[0].patches for flip in (False, True))
    torch.testing.assert_close(mirrored, plain, atol=1e-3, rtol=0)
    assert plain.shape == (3, 4, 3)


def test_the_loss_at_all_pixels_is_cross_entropy() -> None:
    head = LinearLabels(4, 3, torch.Generator().manual_seed(0))
    truth = torch.randint(-1, 3, (12, 20))
    patches = torch.randn(3, 5, 4)
    view = View((12, 20), (12, 20), (12, 20))
    found = head.loss([Sample(Tokens(patches, torch.empty(1, 0)), view, truth)], 0, np.random.default_rng(0))
    logits = head(patches.flatten(0, 1)).T.unflatten(1, (3, 5))[None]
    logits = F.interpolate(logits, (12, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, F.cross_entropy(logits, truth[None], ignore_index=-1))


def test_sizes_of_views() -> None:
    assert view_size((480, 640), None) == (480, 640) and view_size((1024, 2048), None) == (512, 1024)
    assert view_size((480, 640), (240, 240)) == (240, 320) and view_size((480, 640), (100, 300)) == (100, 300)


IMAGE, GREY = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
TREES: dict[str, tuple[list[str], list[str], int, int]] = {  # images, maps, training and test pairs
    "ADE20K": (
        ["images/training/a.jpg", "images/training/b.jpg", "images/validation/c.jpg"],
        ["annotations/training/a.png", "annotations/training/b.png", "annotations/validation/c.png"], 2, 1,
    ),
    "Cityscapes": (
        [f"leftImg8bit/{side}_0_leftImg8bit.png" for side in ("train/a/a", "train/a/b", "val/c/c")],
        [f"gtFine/{side}_0_gtFine_{kind}.png" for side in ("train/a/a", "train/a/b", "val/c/c") for kind in ("labelIds", "color")], 2, 1,
    ),
    "Pascal VOC 2012": (
        [f"VOC2012/JPEGImages/{n}.jpg" for n in "abc"], [f"VOC2012/SegmentationClass/{n}.png" for n in "abc"], 2, 1,
    ),
    "CamVid": (["train/a.png", "train/b.png", "test/c.png"], ["trainannot/a.png", "trainannot/b.png", "testannot/c.png"], 2, 1),
    "NYU Depth v2": (["x/rgb_0.jpg", "x/rgb_1.jpg"], ["x/sync_depth_0.png", "x/sync_depth_1.png"], 1, 1),
    "KITTI": (["input/d/0.png", "input/d/1.png"], ["gt_depth/d/0.png", "gt_depth/d/1.png"], 1, 1),
    "7-Scenes": (
        [f"chess/seq-0{s}/frame-00000{n}.color.png" for s in (1, 2) for n in (0, 1)],
        [f"chess/seq-0{s}/frame-00000{n}.depth.png" for s in (1, 2) for n in (0, 1)], 2, 2,
    ),
}  # fmt: skip
VOC_LISTS = "VOC2012/ImageSets/Segmentation"
LISTS = {
    "Pascal VOC 2012": {f"{VOC_LISTS}/train.txt": "a\nb\n", f"{VOC_LISTS}/val.txt": "c\n"},
    "NYU Depth v2": {
        "nyu_train.txt": "/x/rgb_0.jpg /x/sync_depth_0.png 518.8\n", "nyu_test.txt": "x/rgb_1.jpg x/sync_depth_1.png 518.8\n",
    },
    "KITTI": {
        "split/kitti_eigen_train.txt": "d/0.png d/0.png 721.5\n",
        "split/kitti_eigen_test.txt": "d/1.png d/1.png 721.5\nd/9.png None 721.5\n",
    },
    "7-Scenes": {"chess/TrainSplit.txt": "sequence1\n", "chess/TestSplit.txt": "sequence2\n"},
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_layouts_are_found(tmp_path: Path, name: str) -> None:
    images, maps, train, test = TREES[name]
    for file, pixels in [*((file, IMAGE) for file in images), *((file, GREY) for file in maps)]:
        write(tmp_path / file, pixels)
    for file, text in LISTS.get(name, {}).items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    found = [layout for look in (*LABEL_LAYOUTS, *DEPTH_LAYOUTS) if (layout := look(tmp_path))]
    assert [layout.name for layout in found] == [name]
    assert (len(found[0].train), len(found[0].test)) == (train, test)
    for image, truth in (*found[0].train, *found[0].test):
        assert Path(image).is_file() and Path(truth).is_file()


def test_numbers_of_data_sets(tmp_path: Path) -> None:
    """ADE20K's 0 does not count, of Cityscapes' ids 19 do, palettes are read by index, and KITTI is cut and cropped."""
    write(tmp_path / "a.png", np.array([[0, 1, 150]], np.uint8))
    assert Labels(["x"], values={n + 1: n for n in range(150)}).read(str(tmp_path / "a.png")).tolist() == [[-1, 0, 149]]
    palette = Image.fromarray(np.array([[0, 20, 255]], np.uint8), "P")
    palette.putpalette([5 * n % 256 for n in range(768)])
    palette.save(tmp_path / "p.png")
    assert Labels(["x"] * 21).read(str(tmp_path / "p.png")).tolist() == [[0, 20, -1]]
    pairs = as_set("k", [("", "")], lambda path: np.ones((375, 1242), np.float32), (352, 1216))
    _, truth = pairs.load(0, None, image=False)
    assert truth.shape == (352, 1216)
    kept = DepthMaps(pairs, pairs, "KITTI", 0.001, 80, "kitti").counted(truth.numpy()).nonzero()
    assert [(axis.min(), axis.max() + 1) for axis in kept] == [(143, 349), (43, 1172)]
    kept = DepthMaps(pairs, pairs, "NYU", 0.001, 10, "nyu").counted(np.ones((480, 640))).nonzero()
    assert [(axis.min(), axis.max() + 1) for axis in kept] == [(45, 471), (41, 601)]


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_colours_by_a_mapping(tmp_path: Path, ending: str) -> None:
    plant_classes(tmp_path / "train", 6, seed=0, form="colours")
    given = {"train": folders(tmp_path)["train"]}
    with pytest.raises(UserError, match=r"maps/0.png: a map of colours; name a file .* mapping=FILE"):
        dinolab.evaluate("segmentation", "pixels", **given)
    file, names = tmp_path / f"classes.{ending}", ("red", "green", "blue")
    if ending == "csv":
        file.write_text("name, r, g, b\n" + "".join(f"{n}, {r}, {g}, {b}\n" for n, (r, g, b) in zip(names, COLOURS)))
    else:
        file.write_text(json.dumps({name: colour.tolist() for name, colour in zip(names, COLOURS)}))
    result = dinolab.evaluate("segmentation", "pixels", head="knn", mapping=file, **given)
    assert result.data["classes"] == [*names] and result.figures["miou"].value > 0.9


def test_a_mapping_of_values(tmp_path: Path) -> None:
    file = tmp_path / "classes.csv"
    file.write_text("name,value\nsky,3\nroad,7\nroad,8\n")
    write(tmp_path / "a.png", np.array([[3, 7, 8, 9]], np.uint8))
    assert read_mapping(file).read(str(tmp_path / "a.png")).tolist() == [[0, 1, 1, -1]]
    (tmp_path / "infinite.json").write_text('{"sky": Infinity, "road": 7}')
    with pytest.raises(UserError, match="not a CSV"):
        read_mapping(tmp_path / "infinite.json")


NOTHING = {"train": None, "test": None}


def spoil(root: Path, what: str) -> None:
    images, maps = root / "train" / "images", root / "train" / "maps"
    if what == "unpaired":
        (maps / "2.png").unlink()
    if what == "size":
        write(maps / "2.png", GREY)
    if what == "jpeg":
        cv2.imwrite(str(maps / "2.jpg"), GREY)
        (maps / "2.png").unlink()
    if what == "depths":
        write(maps / "2.png", np.full(SIZES[2], 5000, np.uint16))
    if what == "damaged":
        (images / "2.png").write_bytes(b"no image")
    (root / "wrong.csv").write_text("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("unpaired", {}, r"images/2.png: there is no file of this name in .*maps"),
        ("size", {}, r"maps/2.png: image and map have different sizes, 32 x 96 and 8 x 8"),
        ("jpeg", {}, r"maps/2.jpg: a JPEG, whose values are not exact"),
        ("damaged", {}, r"images/2.png: .*mend the file or remove it"),
        ("", {"classes": 2}, r"label 2, but there are 2 classes, from 0 on; set classes= or ignore="),
        ("", {"ignore": [0, 1, 2, 255]}, r"not one pixel of the training maps has a class"),
        ("", {"mapping": "wrong.csv"}, r"wrong.csv: not a CSV with the columns name,r,g,b or name,value, or a JSON object"),
        ("", {"mapping": "none.csv"}, r"none.csv: cannot be read \(No such file"),
        ("", {"data": "."}, r"data= names a whole data set; leave out train= and test="),
        ("", NOTHING | {"data": "."}, r"no layout that dinolab knows"),
        ("depths", {}, r"labels up to \d+: more than 1,000 classes; name another folder, or set classes="),
        ("", {"train": None}, r"set data=ROOT, or train=IMAGES,MAPS"),
        ("", {"test": "folder"}, r"test=folder: name two folders, of images and of maps: test=IMAGES,MAPS"),
        ("", {"blocks": 4}, r"blocks=4: .* has no class token, and so features of its last layer alone; set blocks=1"),
        ("", {"blocks": 3}, r"blocks=3: takes 1 or 4"),
    ],
)  # fmt: skip
def test_mistakes_are_named(
    labelled: dict[str, Any], tmp_path: Path, what: str, options: dict[str, Any], message: str
) -> None:
    spoil(tmp_path, what)
    given = {**labelled, **options}
    for key in ("mapping", "data"):
        if key in given:
            given[key] = tmp_path / given[key]
    with pytest.raises(UserError, match=message) as found:
        dinolab.evaluate("segmentation", "pixels", steps=1, **given)
    assert "\n" not in str(found.value)
