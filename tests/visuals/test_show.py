"""dinolab show, from the command line."""

import cv2
import numpy as np
import pytest

from dinolab.cli import main
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.weights import load as weights
from tests.pictures import make_folder
from tests.visuals.planted import ByColour, scene


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setattr(weights, "load", lambda name: ByColour().eval())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model = Model(size="tiny", dim=16, depth=2, heads=2, patch_size=4, registers=1)
    weights.save_encoder(ViT(model, 16), folder, {})
    return folder


@pytest.fixture
def scenes(tmp_path):
    """Two scenes of other shapes, and masks of their square of four patches in folders alike."""
    for part in ("images/a", "masks/a"):
        (tmp_path / part).mkdir(parents=True)
    for name, (height, width, x, y) in {"1": (32, 48, 8, 8), "2": (40, 32, 16, 24)}.items():
        image = scene(height, width, x, y).permute(1, 2, 0).numpy()
        cv2.imwrite(str(tmp_path / f"images/a/{name}.png"), image[..., ::-1])
        cv2.imwrite(str(tmp_path / f"masks/a/{name}.png"), np.where(image[..., 0] > 200, 255, 0))
    return tmp_path


@pytest.mark.parametrize("what", ["attention", "pca", "similarity", "neighbours"])
def test_each_picture_of_a_real_encoder(run, scenes, what, capsys):
    words = [f"data={scenes / 'images'}"] if what == "neighbours" else []
    assert main(["show", what, str(run), str(scenes / "images"), "device=cpu", *words]) == 0
    out = run / f"show_{what}.png"
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    picture = cv2.imread(str(out))
    assert min(picture.shape[:2]) > 225
    assert picture.std() > 20
    if what == "pca":
        assert main(["show", what, str(run), str(scenes / "images")]) == 0  # our own name is written over


def test_the_head_that_finds_the_object_is_named(planted, scenes, capsys):
    out = scenes / "new" / "sheet.png"
    words = ["show", "attention", "ours", str(scenes / "images"), "size=32", "mass=0.95"]
    assert main([*words, f"masks={scenes / 'masks'}", f"out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "by head: 1: 1.000  2: 0." in printed
    assert "best: head 1" in printed
    assert out.is_file()


def test_arrays_and_heads_on_request(planted, scenes, capsys, monkeypatch):
    monkeypatch.chdir(scenes)
    (scenes / "show_attention").mkdir()
    (scenes / "show_attention/3_head_1.png").write_bytes(b"of an earlier call")
    words = ["images", "size=32", "arrays=true"]
    assert main(["show", "attention", "ours", *words, "heads=true"]) == 0
    assert capsys.readouterr().out.splitlines() == ["show_attention", "show_attention.npz", "show_attention.png"]
    with np.load("show_attention.npz") as arrays:
        assert arrays["images"].tolist() == ["images/a/1.png", "images/a/2.png"]
        assert [arrays[f"attention_{n}"].shape for n in (1, 2)] == [(3, 4, 6), (3, 5, 4)]
        red = arrays["attention_1"][0]
        assert np.argwhere(red > red.max() / 2).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    files = {path.name for path in (scenes / "show_attention").iterdir()}
    assert files == {f"{n}_{what}.png" for n in (1, 2) for what in ("image", "head_1", "head_2", "head_3")}
    image, head = (cv2.imread(f"show_attention/1_{what}.png").astype(int) for what in ("image", "head_1"))
    assert image.shape == head.shape == (224, 336, 3)
    yellow = head[..., 2] > 200
    assert np.array_equal(yellow, image[..., 2] > 200) and yellow.sum() == 112 * 112

    for what, names in (("pca", ["components", "foreground"]), ("similarity", ["similarity"])):
        assert main(["show", what, "ours", *words, f"out={what}.png"]) == 0
        with np.load(f"{what}.npz") as arrays:
            assert sorted(arrays) == sorted(["images", *(f"{name}_{n}" for name in names for n in (1, 2))])
            assert arrays[f"{names[0]}_2"].shape[:2] == (5, 4)
            if what == "similarity":
                assert arrays["similarity_1"].max() == pytest.approx(1)
            else:
                inside = arrays["foreground_1"]
                first = arrays["components_1"][..., 0]
                assert inside.sum() == 4 and first.sum() != 0
                assert (first[inside].min() > first[~inside].max()) or (first[inside].max() < first[~inside].min())
        (scenes / f"{what}.png").unlink()
        assert main(["show", what, "ours", *words, f"out={what}.png"]) == 2
        assert f"{what}.npz exists already" in capsys.readouterr().err


def test_many_images_are_thinned_with_a_message(planted, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dinolab.cli.show.MOST_IMAGES", 3)
    folder = make_folder(tmp_path / "images", per_class=5, side=16)
    assert main(["show", "pca", "ours", str(folder), "size=16", f"out={tmp_path / 'pca.png'}"]) == 0
    assert "3 of 10 images are shown" in capsys.readouterr().err


def test_mistakes_end_in_one_line(planted, scenes, capsys):
    image = str(scenes / "images/a/1.png")
    (scenes / "there.png").write_bytes(b"mine")
    (scenes / "there.mp4").write_bytes(b"mine")
    for words, expected in (
        (["attention", "ours", "nothing.png"], "nothing.png: no such image"),
        (["attention", "ours", image, f"masks={scenes}"], f"{scenes / '1.png'}: no such mask"),
        (["similarity", "ours", image, "at=48,3"], "at=48,3 lies outside of the first image, which has 48 x 32 pixels"),
        (["pca", "ours", image, "out=picture.jpg"], "out=picture.jpg: must end in .png"),
        (["pca", "ours", image, f"out={scenes / 'there.png'}"], "exists already"),
        (["video", "ours", image, f"out={scenes / 'there.mp4'}"], "exists already"),
        (["pca", "ours", image, "device=abacus"], "device=abacus"),
        (["pca", "ours", image, "size=99999"], "at most 10,000 can be shown"),
        (["neighbours", "ours", image, "data=nowhere"], "data=nowhere: no such"),
        (["attention", "ours", image, "mass=1.5"], "mass=1.5: out of range"),
        (["neighbours", "ours", image], "data is not set"),
    ):
        assert main(["show", *words]) == 2, words
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
    assert (scenes / "there.png").read_bytes() == (scenes / "there.mp4").read_bytes() == b"mine"


def test_a_video_from_frames(planted, tmp_path, capsys):
    pytest.importorskip("av")
    (tmp_path / "frames").mkdir()
    for n in range(3):
        cv2.imwrite(str(tmp_path / f"frames/{n}.png"), scene(32, 48, 8 * n, 8).permute(1, 2, 0).numpy())
    out = tmp_path / "demo.mp4"
    assert main(["show", "video", "ours", str(tmp_path / "frames"), "map=pca", f"out={out}"]) == 0
    assert capsys.readouterr().out == f"{out}: 3 frames\n"
