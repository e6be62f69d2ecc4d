"""Corruptions of test images, and ImageNet's other test sets."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import dinolab
from dinolab.errors import UserError
from dinolab.evals.robustness_corruptions import CORRUPTIONS, Corruption
from dinolab.evals.robustness_sets import mean_corruption_error, right_among, right_by_real
from tests.pictures import make_folder

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "video" / "imagenet_c.json"
QUICK = {"size": 32, "cache": "none"}


def photo(height=128, width=96):
    """Smooth colours with an edge, uint8 (3, H, W)."""
    y, x = np.mgrid[:height, :width]
    view = np.stack([x * 2, y, 200 - x]).astype(np.uint8)
    view[:, height // 4 : height // 2, width // 4 : width // 2] = 30
    return view


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_depend_on_seed_and_image_alone_and_grow_with_strength(name):
    view = photo()
    made = [Corruption(name, strength)(view, b"x") for strength in range(1, 6)]
    again = Corruption(name, 3)(view, b"x")
    assert all(one.dtype == np.uint8 and one.shape == view.shape for one in made)
    np.testing.assert_array_equal(made[2], again)
    far = [float(np.abs(one.astype(int) - view).mean()) for one in made]
    assert 0.1 < far[0] < far[2] < far[4]
    if name.endswith("noise") or name in ("motion_blur", "fog", "snow"):
        assert (Corruption(name, 3, seed=1)(view, b"x") != again).any()
        assert (Corruption(name, 3)(view, b"y") != again).any()


def test_blur_is_the_same_share_of_a_larger_image():
    small = photo()
    large = cv2.resize(small.transpose(1, 2, 0), (384, 512), interpolation=cv2.INTER_CUBIC).transpose(2, 0, 1)
    blurred = Corruption("defocus_blur", 5)(np.ascontiguousarray(large), b"")
    shrunk = cv2.resize(blurred.transpose(1, 2, 0), (96, 128), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    assert np.abs(shrunk.astype(int) - Corruption("defocus_blur", 5)(small, b"")).mean() < 2


@pytest.fixture
def folders(tmp_path):
    train = make_folder(tmp_path / "train", per_class=10, classes=3, seed=0)
    return str(train), str(make_folder(tmp_path / "test", per_class=4, classes=3, seed=1))


def greys(folder, seed):
    """Two classes that differ in brightness."""
    rng = np.random.default_rng(seed)
    for label, level in (("dark", 90), ("light", 130)):
        (folder / label).mkdir(parents=True)
        for n in range(6):
            cv2.imwrite(str(folder / label / f"{n}.png"), rng.normal(level, 5, (24, 24, 3)).astype(np.uint8))
    return str(folder)


def test_corrupted_images_are_predicted_worse(tmp_path):
    out, folders = tmp_path / "out", (greys(tmp_path / "train", 0), greys(tmp_path / "test", 1))
    names = ["gaussian_noise", "contrast", "brightness"]
    found = dinolab.evaluate("robustness", "pixels", *folders, out, corruptions=names, sets=[folders[1]], **QUICK)
    figures = {key: one.value for key, one in found.figures.items()}
    assert figures["accuracy"] == 1 and figures["corrupted"] < 1
    assert figures["loss"] == pytest.approx(1 - figures["corrupted"])
    assert found.parts["brightness"]["strength 5"] == 0.5  # all are light
    assert list(found.parts) == [*names, "test"] and found.parts["test"]["accuracy"] == 1
    assert np.mean([found.parts[name]["accuracy"] for name in names]) == pytest.approx(figures["corrupted"])
    low, high = found.figures["corrupted"].interval
    assert low <= figures["corrupted"] <= high
    assert cv2.imread(str(out / "pictures" / "corruptions.png")).shape[0] > 300
    assert json.loads((out / "result.json").read_text())["parts"] == found.parts


def test_the_first_images_are_a_subset_and_bad_input_is_one_line(folders, tmp_path):
    found = dinolab.evaluate(
        "robustness", "pixels", *folders, corruptions=["jpeg"], strengths=[5], limit=5, head="linear", **QUICK
    )
    assert found.data["test_images"] == 5 and list(found.parts["jpeg"]) == ["accuracy", "strength 5"]
    (tmp_path / "real.json").write_text("[1, 2]")
    other = make_folder(tmp_path / "other", per_class=2, classes=2, seed=0)
    for one in other.iterdir():
        one.rename(other / f"x{one.name}")
    for sets, said in (
        (tmp_path / "real.json", "not a JSON list"),
        (other, "no class in common"),
        (tmp_path / "nowhere", "no such file or folder"),
    ):
        with pytest.raises(UserError, match=said):
            dinolab.evaluate(
                "robustness", "pixels", *folders, corruptions=["jpeg"], strengths=[1], sets=[str(sets)], **QUICK
            )
    with pytest.raises(UserError, match="corruptions=rain: there is no such corruption, only gaussian_noise"):
        dinolab.evaluate("robustness", "pixels", *folders, corruptions=["rain"], **QUICK)
    with pytest.raises(UserError, match="one set of test images"):
        dinolab.evaluate("robustness", "pixels", folders[0], [folders[1], folders[0]], **QUICK)


def test_imagenet_c_by_its_layout(folders, tmp_path):
    for name in ("fog", "snow"):
        for strength in (1, 2):
            make_folder(tmp_path / "imagenet-c" / name / str(strength), per_class=2, classes=3, seed=strength)
    sets = [str(tmp_path / "imagenet-c")]
    found = dinolab.evaluate("robustness", "pixels", *folders, corruptions=["jpeg"], strengths=[1], sets=sets, **QUICK)
    assert {"imagenet-c", "imagenet-c/fog", "imagenet-c/snow"} <= set(found.parts) and "mce" not in found.figures


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the golden figures are not here")
def test_mean_corruption_error_is_that_of_published_code():
    golden = json.loads(GOLDEN.read_text())
    errors = {name.lower(): [1 - a for a in by.values()] for name, by in golden["accuracy"].items()}
    assert mean_corruption_error(errors) == pytest.approx(golden["mCE_15"], abs=1e-9)


def test_classes_of_subsets_and_several_right_classes():
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.5, 0.4], [0.5, 0.1, 0.4]])
    np.testing.assert_array_equal(
        right_among(probabilities, np.array([1, 1, 2])), [True, True, True]
    )  # 0 does not occur
    np.testing.assert_array_equal(right_among(probabilities, np.array([0, -1, 2])), [True, False])
    names = [f"val/ILSVRC2012_val_{n:08d}.JPEG" for n in (3, 1, 2)]
    np.testing.assert_array_equal(right_by_real(np.array([4, 7, 1]), names, [[7], [], [2, 4]], "r"), [True, True])
    with pytest.raises(UserError, match="validation images"):
        right_by_real(np.array([1]), ["a.jpg"], [[1]], "r")
