"""Clips: which frames are taken, how their features are pooled, and the classification."""

import cv2
import numpy as np
import pytest
import torch

import dinolab
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.evals.video import of_clips
from tests.evals.planted import feature_set

av = pytest.importorskip("av")
QUICK = {"size": 32, "cache": "none"}


def make_video(path, levels, channel=0):
    """A video with a frame for each grey level, in one colour channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        for level in levels:
            picture = np.full((48, 64, 3), 20, np.uint8)
            picture[..., channel] = level
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def make_frames(folder, levels, channel=0):
    folder.mkdir(parents=True)
    for n, level in enumerate(levels):
        picture = np.full((48, 64, 3), 20, np.uint8)
        picture[..., 2 - channel] = level
        cv2.imwrite(str(folder / f"{n:03d}.png"), picture)


def levels_of(source):
    return [float(read_image(path)[..., 0].mean()) for path in source.paths]


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_evenly_spaced_frames_of_a_video_and_of_a_folder(tmp_path, ending):
    levels = np.linspace(40, 230, 8).repeat(3)
    make_video(tmp_path / "both" / "a" / f"x{ending}", levels)
    make_frames(tmp_path / "both" / "b" / "y", levels)
    source = open_source(f"clips:{tmp_path / 'both'}")
    assert source.classes == ["a", "b"] and source.labels.tolist() == [0] * 8 + [1] * 8
    found = levels_of(source)
    expected = levels[[1, 4, 7, 10, 13, 16, 19, 22]]  # the middle of each eighth
    np.testing.assert_allclose(found[:8], expected, atol=9)
    np.testing.assert_allclose(found[8:], expected, atol=1)


def test_every_frame_of_a_video_and_of_a_folder(tmp_path):
    levels = 40 + 30 * (np.arange(37) * 5 % 7)  # more than are decoded at once
    make_video(tmp_path / "a" / "x.mp4", levels)
    make_frames(tmp_path / "b" / "y", levels[:3])
    source = open_source(f"video:{tmp_path}")
    assert source.classes == ["a", "b"] and source.labels.tolist() == [0] * 37 + [1] * 3
    np.testing.assert_allclose(levels_of(source), [*levels, *levels[:3]], atol=9)
    alone = open_source(f"video:{tmp_path / 'a' / 'x.mp4'}")
    assert alone.labels is None and read_image(alone.paths[30]).tolist() == read_image(source.paths[30]).tolist()
    for named, said in (
        (f"video:{tmp_path}/none", "no such file or folder"),
        (f"clips:{tmp_path}/a/x.mp4", "a file; name the"),
    ):
        with pytest.raises(UserError, match=said):
            open_source(named)
    (tmp_path / "a" / "z.mp4").write_bytes(b"no video")
    broken = open_source(f"video:{tmp_path}")
    assert len(broken) == 41
    with pytest.raises(BrokenImage, match=r"z\.mp4, frame 1 of 1"):
        read_image(broken.paths[37])


def test_clips_by_class_segments_and_predictions(tmp_path):
    for side, clips in (("train", 3), ("test", 2)):
        for channel, name in enumerate(("red", "green", "blue")):
            for n in range(clips):
                make_video(tmp_path / side / name / f"{n}.mp4", [200 - 5 * n] * 4, channel)
    train, test = str(tmp_path / "train"), str(tmp_path / "test")
    out = tmp_path / "out"
    found = dinolab.evaluate("video", "pixels", train, test, out, join="concatenate", frames=2, segments=2, **QUICK)
    assert found.main.value == 1 and found.data["train_images"] == 18 and found.data["test_images"] == 12
    assert not (out / "layer.safetensors").exists() and (out / "predictions.csv").read_text().count("\n") == 13


def test_features_of_frames_are_averaged_or_joined_and_clips_without_frames_are_left_out():
    tokens = torch.arange(10.0).reshape(5, 2)
    frames = feature_set([tokens], torch.tensor([0, 0, 1, 2, 2]), patches=tokens + 1)
    frames = frames.__class__(
        frames.blocks, frames.patches, frames.labels, torch.tensor([0, 1, 3, 6, 7]), frames.digests
    )
    clips = type("Clips", (), {"name": "c", "labels": np.array([5, 6, 7, 8]), "__len__": lambda self: 4})()
    mean = of_clips(frames, clips, 8, joined=False)
    assert mean.kept.tolist() == [0, 1, 3] and mean.labels.tolist() == [5, 6, 8]
    assert mean.blocks[0].tolist() == [[1, 2], [4, 5], [7, 8]] and mean.patches.tolist() == [[2, 3], [5, 6], [8, 9]]
    joined = of_clips(frames, clips, 8, joined=True)
    assert joined.kept.tolist() == [0, 3] and joined.blocks[0].tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]


def test_bad_clips_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    make_video(tmp_path / "flat" / "a.mp4", [100] * 3)
    make_video(tmp_path / "bad" / "a" / "x.mp4", [100] * 3)
    (tmp_path / "bad" / "b").mkdir()
    (tmp_path / "bad" / "b" / "y.mp4").write_bytes(b"no video")
    for name, said in (("no", "no such folder"), ("empty", "no videos"), ("flat", "has no labels")):
        with pytest.raises(UserError, match=said) as error:
            dinolab.evaluate("video", "pixels", str(tmp_path / name), **QUICK)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="two classes or more"):  # the clip that cannot be read is left out
        dinolab.evaluate("video", "pixels", str(tmp_path / "bad"), str(tmp_path / "bad"), **QUICK)
