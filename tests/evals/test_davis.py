"""Video object segmentation: published numbers, clips whose right answer is known, and mistakes in the data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

import dinolab
from dinolab.cli import main
from dinolab.errors import UserError
from dinolab.evals import davis
from dinolab.evals.contours import boundary, region, statistics
from dinolab.evals.davis_frames import fitting
from dinolab.evals.label_images import colours
from dinolab.evals.propagation import Propagation, Rule, nearest, propagate, to_pixels
from dinolab.features.pixels import PatchColours
from dinolab.report.evaluated import read_evaluated
from dinolab.report.sections.again import evaluation as command_of

PATCH, HEIGHT, WIDTH = 4, 48, 64
EXACT = {"protocol": "dinov3", "size": f"{HEIGHT}x{WIDTH}", "cache": "none"}  # labels enlarged without smoothing


# Published numbers


def unpack(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    return np.unpackbits(file[name], axis=-1, count=854).astype(bool)


@pytest.fixture(scope="module")
def known(golden: Path) -> dict:
    return json.loads((golden / "davis" / "jf_results.json").read_text())


@pytest.mark.parametrize("clip", ["blackswan", "dance-twirl"])
def test_j_and_f_of_clips(golden: Path, known: dict, clip: str) -> None:
    with np.load(golden / "davis" / f"{clip}_masks.npz") as file:
        truth = unpack(file, "gt")
        for name, found in known["davis2"].items():
            predicted = truth if name == "same" else unpack(file, name)
            for measure, letter in ((region, "J"), (boundary, "F")):
                values = found["per_object"][f"{clip}_1"][letter]["per_frame"]
                assert len(values) == len(truth) - 2
                for n in (1, 10, 23):
                    assert measure(truth[n], predicted[n]) == pytest.approx(values[n - 1], abs=1e-6), (name, n)


def test_j_and_f_of_several_objects(golden: Path, known: dict) -> None:
    with np.load(golden / "davis" / "judo4_masks.npz") as file:
        for name, found in known["judo4"].items():
            for label in range(1, 5):
                truth, predicted = (file[key][5] == label for key in ("gt", name))
                values = found["per_object"][f"judo4_{label}"]
                assert region(truth, predicted) == pytest.approx(values["J"]["per_frame"][4], abs=1e-6)
                assert boundary(truth, predicted) == pytest.approx(values["F"]["per_frame"][4], abs=1e-6)


def test_figures_over_frames_and_objects(known: dict) -> None:
    names = {"jf_mean": "J&F-Mean"} | {
        f"{m}_{s}": f"{m.upper()}-{s.title()}" for m in "jf" for s in statistics([1])._fields
    }
    for found in (*known["davis2"].values(), *known["judo4"].values()):
        objects = [davis.figures_of(*(one[m]["per_frame"] for m in "JF")) for one in found["per_object"].values()]
        ours = davis.average(objects)
        assert {names[key]: value for key, value in ours.items()} == pytest.approx(found["global_results"], abs=1e-6)
    for case in known["statistics"]:
        values = [np.nan if value is None else value for value in case["values"]]
        assert statistics(values) == pytest.approx([case[key] for key in ("mean", "recall", "decay")], abs=1e-6)


@pytest.mark.parametrize(
    ("case", "truth", "predicted"),
    [
        ("both_empty", "empty", "empty"), ("gt_empty", "empty", "box"), ("prediction_empty", "box", "empty"),
        ("prediction_full", "box", "full"), ("both_full", "full", "full"), ("one_pixel_each", "pixel", "pixel"),
        ("touches_border", "box_at_border", "box_at_border_shifted"), ("one_pixel_vs_box", "box", "pixel"),
    ],
)  # fmt: skip
def test_j_and_f_at_their_limits(golden: Path, known: dict, case: str, truth: str, predicted: str) -> None:
    with np.load(golden / "davis" / "edge_masks.npz") as file:
        pair = file[truth].astype(bool), file[predicted].astype(bool)
    found = region(*pair), boundary(*pair), boundary(*pair, 1), boundary(*pair, 2)
    assert found == pytest.approx(tuple(known["edge_cases"][case].values()), abs=1e-6)


def test_void_pixels_taken_out_of_both_masks(golden: Path, known: dict) -> None:
    with (
        np.load(golden / "davis" / "void_rings.npz") as file,
        np.load(golden / "davis" / "blackswan_masks.npz") as masks,
    ):
        rings = dict(zip(file["frames"].tolist(), unpack(file, "void")))
        for case in known["void"].values():
            n = case["frame"]
            pair = unpack(masks, "gt")[n] & ~rings[n], unpack(masks, case["prediction"])[n] & ~rings[n]
            assert (region(*pair), boundary(*pair)) == pytest.approx((case["J"], case["F"]), abs=1e-6)


def carried(features: np.ndarray, labels: np.ndarray, rule: Rule) -> torch.Tensor:
    frames = torch.from_numpy(features)
    propagation = Propagation(frames[0], one_hot(torch.from_numpy(labels).long()).float(), rule)
    return torch.stack([propagation.step(frame) for frame in frames[1:]])


@pytest.mark.parametrize("name", ["two_classes", "four_classes", "no_neighbourhood", "wide"])
@pytest.mark.parametrize("tile", [3, 16])
def test_propagation_of_dino(golden: Path, name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinolab.evals.propagation.TILE", tile)
    s = json.loads((golden / "davis" / "propagation_settings.json").read_text())[name]
    rule = Rule(s["n_last_frames"], s["size_mask_neighborhood"], False, s["topk"], s["temperature"])
    with np.load(golden / "davis" / f"propagation_{name}.npz") as file:
        ours = carried(file["features"], file["first_labels"], rule)
        np.testing.assert_allclose(ours.permute(0, 3, 1, 2), file["soft"], rtol=0, atol=1e-5)
        for soft, hard in zip(ours, file["hard"]):
            assert (to_pixels(soft, hard.shape, "bilinear").numpy() == hard).all()


@pytest.mark.parametrize("name", ["four_classes", "wide", "circle_small"])
def test_propagation_of_dinov3(golden: Path, name: str) -> None:
    s = json.loads((golden / "davis" / "propagation_dinov3_settings.json").read_text())[name]
    circle = s["neighborhood_shape"] == "circle"
    rule = Rule(s["max_context_length"], s["neighborhood_size"], circle, s["topk"], s["temperature"])
    with (
        np.load(golden / "davis" / s["features_of"]) as given,
        np.load(golden / "davis" / f"propagation_dinov3_{name}.npz") as file,
    ):
        ours = carried(given["features"], given["first_labels"], rule)
        np.testing.assert_allclose(ours.permute(0, 3, 1, 2), file["soft"], rtol=0, atol=1e-5)
        for soft, hard in zip(ours, file["hard"]):
            assert (to_pixels(soft, hard.shape, "nearest").numpy() == hard).all()


def test_sizes_of_frames(golden: Path) -> None:
    known = json.loads((golden / "davis" / "frame_sizes.json").read_text())
    dino, dinov3 = (davis.PROTOCOLS[name][0] for name in ("dino", "dinov3"))
    for size, found in known.items():
        height, width = map(int, size.split("x"))
        assert fitting(height, width, (480, 480), dino, 16) == tuple(found["frame_read_as"])
    assert fitting(480, 854, (480, 480), dino, 14) == (476, 826)
    assert fitting(480, 854, (480, 480), dino, 32) == (480, 832)
    assert fitting(48, 64, (48, 48), dino, 4) == (48, 64)  # short frames keep their shape
    assert fitting(480, 854, (960, 960), dinov3, 16) == (960, 1712)
    assert fitting(854, 480, (960, 960), dinov3, 14) == (1708, 966)
    assert fitting(480, 854, (100, 201), dino, 8) == (96, 200)


# Clips whose right answer is known


def test_ties_share_the_weight() -> None:
    """All patches alike: each gets the mean label of its neighbourhood, whatever topk is."""
    features = torch.ones(3, 5, 2)
    labels = torch.zeros(1, 3, 5, 1)
    labels[0, 1, 2] = 1
    unit = features / features.norm(dim=-1, keepdim=True)
    found = propagate(unit, unit[None], labels, Rule(neighbourhood=1, topk=1))
    assert found[1, 2].item() == pytest.approx(1 / 9)
    assert found[0, 1].item() == pytest.approx(1 / 6)  # at the border the neighbourhood is smaller
    assert found[1, 0].item() == 0


def colour_encoder() -> PatchColours:
    return PatchColours(PATCH)


def draw(t: int, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """A frame with two squares that move by a patch a frame, and its labels 1 and 3; 3 is not in frames 3 and 4."""
    frame, labels = np.full((height, width, 3), (0, 255, 0), np.uint8), np.zeros((height, width), np.uint8)
    squares = [(1, (255, 0, 0), 8 + PATCH * t, 8), *([(3, (0, 0, 255), 20, 40 - PATCH * t)] if t not in (3, 4) else [])]
    for label, colour, top, left in squares:
        frame[top : top + 12, left : left + 12] = colour
        labels[top : top + 12, left : left + 12] = label
    return frame, labels


def write_clip(frames: Path, masks: Path, count: int = 6, with_masks: int = 99, width: int = WIDTH) -> None:
    for folder in (frames, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for t in range(count):
        frame, labels = draw(t, width=width)
        Image.fromarray(frame).save(frames / f"{t}.bmp")
        if t < with_masks:
            Image.fromarray(labels).save(masks / f"{t}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layout of DAVIS, with two clips of different sizes, and a third one that the list does not name."""
    for name, width in (("wide", 72), ("plain", WIDTH), ("other", WIDTH)):
        write_clip(tmp_path / "D/JPEGImages/480p" / name, tmp_path / "D/Annotations/480p" / name, width=width)
    (tmp_path / "D/ImageSets/2017").mkdir(parents=True)
    (tmp_path / "D/ImageSets/2017/val.txt").write_text("wide\nplain\n")
    return tmp_path / "D"


def labels_in(file: Path) -> np.ndarray:
    return np.array(Image.open(file))


def test_squares_that_move_and_vanish_are_followed(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = dinolab.evaluate("davis", colour_encoder(), data=root, out=out, **EXACT | {"size": "48"})
    assert (found.data["clips"], found.data["objects"], found.data["test_images"]) == (2, 4, 12)
    assert list(found.parts) == ["wide", "plain"]
    assert {key: one.value for key, one in found.figures.items()} == {
        "jf_mean": 1, "j_mean": 1, "j_recall": 1, "j_decay": 0, "f_mean": 1, "f_recall": 1, "f_decay": 0
    }  # fmt: skip
    assert found.main and found.main.interval == (1, 1)
    for name, width in (("wide", 72), ("plain", WIDTH)):
        for t in range(6):
            assert (labels_in(out / "masks" / name / f"{t}.png") == draw(t, width=width)[1]).all()
        assert (out / "pictures" / f"{name}.png").is_file()
        kept = json.loads((out / "clips" / f"{name}.json").read_text())
        assert kept["frames"] == [f"{t}.bmp" for t in range(1, 5)]  # neither the first nor the last
        assert kept["objects"]["3"]["J"] == [1, 1, 1, 1]  # both empty, twice
    words = command_of(read_evaluated(out / "result.json")).split()
    assert {f"data={root}", "split=val", "protocol=dinov3", "topk=5", "size=48"} <= {*words}


def test_smoothed_labels_lose_corners_alone(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip/frames", tmp_path / "clip/masks")
    found = dinolab.evaluate("davis", colour_encoder(), data=tmp_path / "clip", **EXACT | {"protocol": "dino"})
    assert 0.9 < found.main.value < 1
    assert found.data["test"] == str(tmp_path / "clip") and list(found.parts) == ["clip"]
    assert found.main.interval and found.main.interval[0] < found.main.interval[1]  # over its two objects


def test_a_stopped_evaluation_repeats_no_finished_clip(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    segment = davis.Tracker.segment

    def counted(self: davis.Tracker, clip: davis.Clip, *rest: object) -> davis.Found:
        if clip.name == "plain" and not done.count("stopped"):
            done.append("stopped")
            raise KeyboardInterrupt
        done.append(clip.name)
        return segment(self, clip, *rest)

    monkeypatch.setattr(davis.Tracker, "segment", counted)

    def again(**options: object) -> dinolab.evals.result.Result:
        return dinolab.evaluate("davis", colour_encoder(), data=root, out=tmp_path / "out", **EXACT | options)

    with pytest.raises(KeyboardInterrupt):
        again()
    first = again()
    assert done == ["wide", "stopped", "plain"] and first.main.value > 0.9
    assert again().to_json() == first.to_json() and len(done) == 3
    (tmp_path / "out/clips/wide.json").write_text('{"of": 1}')  # damaged
    (tmp_path / "out/masks/plain/3.png").unlink()
    again()
    assert done[3:] == ["wide", "plain"]
    again(topk=3)
    assert done[5:] == ["wide", "plain"]


@pytest.mark.parametrize(("count", "with_masks"), [(1, 1), (3, 1)])
def test_without_later_masks_there_are_masks_and_no_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture, count: int, with_masks: int
) -> None:
    write_clip(tmp_path / "clips/a", tmp_path / "clips/a", count, with_masks)
    first = Image.fromarray(draw(0)[1] // 2 * 255)  # 3 alone, as 255
    first.save(tmp_path / "clips/a/0.png")
    words = [
        "eval",
        "davis",
        "pixels",
        f"data={tmp_path / 'clips'}",
        f"out={tmp_path / 'out'}",
        "size=48",
        "device=cpu",
    ]
    assert main(words) == 0
    assert "masks/" in capsys.readouterr().out
    masks = [Image.open(file) for file in sorted((tmp_path / "out/masks/a").iterdir())]
    assert len(masks) == count and all(mask.mode == "P" and mask.size == (WIDTH, HEIGHT) for mask in masks)
    assert (np.array(masks[0]) == np.array(first)).all() and set(np.unique(masks[-1])) <= {0, 255}
    assert bytes(masks[0].getpalette()) == colours().tobytes()
    content = json.loads((tmp_path / "out/result.json").read_text())
    assert content["figures"] == {} and content["parts"] == {}


def test_the_palette_and_labels_of_the_first_mask_are_kept(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", tmp_path / "clip", 3, 1)
    labels = draw(0)[1]
    labels[:4] = 255  # pixels to ignore, since there are other labels
    mask = Image.fromarray(labels)
    palette = 3 * [*range(256)]
    mask.putpalette(palette)
    mask.save(tmp_path / "clip/mask.png")
    (tmp_path / "clip/0.png").unlink()
    dinolab.evaluate("davis", colour_encoder(), data=tmp_path / "clip", out=tmp_path / "out", **EXACT)
    last = Image.open(tmp_path / "out/masks/clip/2.png")
    assert last.getpalette() == palette and (np.array(last) == draw(2)[1]).all()


def test_objects_that_cannot_be_followed_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_clip(tmp_path / "clip", tmp_path / "clip", 2, 1)
    labels = draw(0)[1]
    labels[0, 0] = 9
    Image.fromarray(labels).save(tmp_path / "clip/0.png")
    dinolab.evaluate("davis", colour_encoder(), data=tmp_path / "clip", **EXACT)
    assert "0.png: too small for a patch of their own, so never found: label 9" in caplog.text
    Image.fromarray(np.full_like(labels, 2)).save(tmp_path / "clip/1.png")
    dinolab.evaluate("davis", colour_encoder(), data=tmp_path / "clip", **EXACT)
    assert "1.png: has no label of the first mask (1, 3, 9) but others" in caplog.text


def test_the_nearest_value_is_that_of_pillow() -> None:
    mask = np.arange(20, dtype=np.uint8).reshape(4, 5)
    assert (nearest(mask, (2, 5)) == mask[1::2]).all() and (nearest(nearest(mask, (8, 10)), (4, 5)) == mask).all()


# Mistakes in the data


def other_size(clip: Path) -> None:
    Image.new("L", (WIDTH, 40)).save(clip / "1.png")


def colour_mask(clip: Path) -> None:
    Image.fromarray(draw(0)[0]).save(clip / "0.png")


def many_objects(clip: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 300, np.uint16)).save(clip / "0.png")


def damaged(clip: Path) -> None:
    (clip / "0.png").write_bytes((clip / "0.png").read_bytes()[:60])


def another_frame(clip: Path) -> None:
    Image.new("RGB", (WIDTH, 52)).save(clip / "2.bmp")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_size, r"1\.png: 64 x 40 pixels, and its frame 1\.bmp has 64 x 48; resize"),
        (colour_mask, r"0\.png: a colour image without a palette; save"),
        (many_objects, r"0\.png: has the label 300; there can be 255 objects at most"),
        (damaged, r"0\.png: cannot be read"),
        (another_frame, r"2\.bmp: 64 x 52 pixels, where the clip's first frame has 64 x 48"),
        (lambda clip: (clip / "0.png").unlink(), r"0\.bmp: the first frame has no mask.*; add a PNG"),
        (lambda clip: (clip / "0.png").rename(clip / "x.png"), r"x\.png: a mask without a frame of the same name"),
        (lambda clip: [file.unlink() for file in clip.glob("*.bmp")], r"no clip is found; expected JPEGImages"),
        (lambda clip: (clip / "1.bmp").write_bytes(b"BM"), r"1\.bmp: .*replace this one"),
        (shutil.rmtree, r"clip: no such folder; expected JPEGImages"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, spoil: object, message: str) -> None:
    write_clip(tmp_path / "clip", tmp_path / "clip", 3)
    spoil(tmp_path / "clip")
    with pytest.raises(UserError, match=message):
        dinolab.evaluate("davis", colour_encoder(), data=tmp_path / "clip", **EXACT)


def test_mistakes_in_the_layout_of_davis(root: Path) -> None:
    with pytest.raises(UserError, match=r"train\.txt: no such list; name another one with split="):
        dinolab.evaluate("davis", "pixels", data=root, split="train")
    shutil.rmtree(root / "JPEGImages/480p/plain")
    with pytest.raises(UserError, match=r"plain: no such folder, though .*val\.txt names it"):
        dinolab.evaluate("davis", "pixels", data=root)
    with pytest.raises(UserError, match="data is not set"):
        dinolab.evaluate("davis", "pixels")
    (root / "ImageSets/2017/val.txt").write_text("wide")
    with pytest.raises(UserError, match="PatchColours: gives one patch for a whole frame"):
        dinolab.evaluate("davis", colour_encoder(), data=root, size="4x5", cache="none")
