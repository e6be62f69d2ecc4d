"""Videos are written, read back with PyAV, and looked at: size, rate, codec, the original on the left, colours on the right."""

import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinolab.errors import UserError
from dinolab.visuals import clip as module
from dinolab.visuals.attention import attention_maps, mass_mask
from dinolab.visuals.clip import h264_writer, open_clip
from dinolab.visuals.video import SAMPLES, make_video, paint_attention, panel_size, survey
from tests.visuals.planted import ByColour, scene

av = pytest.importorskip("av")


def pixels(image):
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def moving(frames: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    return [pixels(scene(height, width, 8 + 2 * n, 24)) for n in range(frames)]


def write_clip(path: Path, frames: list[np.ndarray], rate: Fraction = Fraction(30000, 1001), turn: int = 0) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, frames: list[np.ndarray]) -> Path:
    folder.mkdir()
    for n, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{n}.png"), frame[..., ::-1])
    return folder


def read_back(path: Path) -> tuple[object, list[np.ndarray]]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
        return container.streams.video[0], frames


@pytest.mark.parametrize("what", ["attention", "pca", "similarity"])
def test_a_clip_and_its_map(tmp_path, what):
    frames = moving(12, 240, 320)
    path = write_clip(tmp_path / "clip.mp4", frames)
    out = tmp_path / "new" / "demo.mp4"
    encoder = ByColour().train()
    # red, so that the first head looks at it
    assert make_video(encoder, path, out, what, 64, head=1, at=(16 / 320, 32 / 240)) == 12
    assert encoder.training
    stream, got = read_back(out)
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert stream.average_rate == Fraction(30000, 1001)
    assert len(got) == 12
    height, width = got[0].shape[:2]
    bar = height - 240
    assert (width, height % 2) == (640, 0)
    assert 20 < bar < 60
    assert got[0][:bar].max() > 200  # the titles
    assert [p.name for p in out.parent.iterdir()] == ["demo.mp4"]
    for n, frame in enumerate(frames):
        assert np.abs(got[n][bar:, :320] - frame).mean() < 3
    corners = np.stack([frame[bar + 190 :, 330:] for frame in got])
    assert corners.std(0).mean() < 3  # the ground's colours stay as they are
    first, last = (frame[bar + 28 : bar + 36, 320:] for frame in (got[0], got[-1]))
    ground = got[0][bar + 150, 400]
    assert np.abs(first[:, 12:20] - ground).max(2).mean() > 80  # the square's differ, and move with it
    assert np.abs(last[:, 34:42] - ground).max(2).mean() > 80


def test_a_folder_of_small_frames_of_odd_sides(tmp_path):
    frames = moving(11, 45, 61)
    folder = write_frames(tmp_path / "frames", frames)
    assert make_video(ByColour(), folder, tmp_path / "demo.mp4") == 11
    stream, got = read_back(tmp_path / "demo.mp4")
    assert stream.average_rate == 24
    assert got[0].shape[1] == 2 * 5 * 61
    bar = got[0].shape[0] - 5 * 45
    left = got[10][bar:, : 5 * 61].reshape(45, 5, 61, 5, 3).mean((1, 3))
    assert np.abs(left - frames[10]).mean() < 4  # in the order of the numbers, 10 after 9


def test_clips_turned_by_a_phone_stand_upright(tmp_path):
    frames = moving(2, 64, 96)
    path = write_clip(tmp_path / "clip.mp4", frames, turn=90)
    read = list(open_clip(path).frames())
    assert read[0].shape == (96, 64, 3)
    assert np.abs(read[0].astype(int) - np.rot90(frames[0])).mean() < 3


def test_samples_are_spread_and_begin_with_the_first():
    for count in (1, 24, 25, 200):
        clip = module.Clip(
            "it", Fraction(24), lambda count=count: (np.full((4, 6, 3), n, np.uint8) for n in range(count))
        )
        found = survey(clip, torch.from_numpy)
        values = [int(sample[0, 0, 0]) for sample in found.samples]
        assert (found.frames, found.shape, values[0]) == (count, (4, 6), 0)
        assert min(count, SAMPLES) <= len(values) <= 2 * SAMPLES
        assert len(set(np.diff(values))) <= 1
        assert values[-1] + 2 * np.diff([-1, *values])[-1] >= count - 1


def test_a_clip_without_frames_is_refused():
    with pytest.raises(UserError, match="it: there is not one frame"):
        survey(module.Clip("it", Fraction(24), lambda: iter(())), torch.from_numpy)


def test_a_flash_does_not_move_the_scale_of_attention():
    calm, flash = scene(64, 64, 0, 0), scene(64, 64, 0, 0, (120, 120, 120))
    title, paint = paint_attention(ByColour().eval(), [calm] * 3, None)
    assert title == "attention, mean of 3 heads"
    picture = np.full((64, 64, 3), 0.2)
    before = paint(calm, picture)
    paint(flash, picture)
    assert np.abs(paint(calm, picture) - before).mean() < 0.02
    _, fresh = paint_attention(ByColour().eval(), [flash] * 3, None)
    assert np.abs(fresh(calm, picture) - before).mean() > 0.02


def test_a_share_of_the_attention_is_shown_in_a_white_line():
    frame = scene(64, 96, 24, 16)
    title, paint = paint_attention(ByColour().eval(), [frame], 1, share=0.6)
    assert title == "attention, head 1, 60 % of it"
    _, whole = paint_attention(ByColour().eval(), [frame], 1)
    picture = np.full((128, 192, 3), 0.4)
    drawn, heat = paint(frame, picture), whole(frame, picture)
    mask = mass_mask(attention_maps(ByColour().eval(), frame[None])[0, 0]).numpy().repeat(16, 0).repeat(16, 1)
    assert 0 < mask.sum() <= 32 * 32  # the square alone
    np.testing.assert_allclose(drawn[~mask], 0.35 * 0.4)
    white = (drawn == 1).all(2)
    assert white.any() and not (white & ~mask).any()
    np.testing.assert_array_equal(drawn[mask & ~white], heat[mask & ~white])


def test_sizes_of_panels():
    assert panel_size(480, 854) == (480, 854)
    assert panel_size(32, 32) == (224, 224)
    assert panel_size(2160, 3840) == (720, 1280)


def broken_clips(folder: Path) -> dict[str, str]:
    (folder / "text.mp4").write_text("no video")
    with av.open(str(folder / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    whole = write_clip(folder / "whole.mp4", moving(20)).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty").mkdir()
    return {
        "missing.mp4": "no such video",
        "text.mp4": "not a video",
        "sound.wav": "sound and no pictures",
        "cut.mp4": "not a video",
        "empty": "no image in this folder",
    }


def test_a_title_that_is_no_text_is_no_hindrance(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        container.metadata["title"] = "no text"
        stream = container.add_stream("ffv1", rate=24)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(moving(1)[0])))
        container.mux(stream.encode())
    (tmp_path / "a.mkv").write_bytes((tmp_path / "a.mkv").read_bytes().replace(b"no text", b"no \x92ext"))
    assert len(list(open_clip(tmp_path / "a.mkv").frames())) == 1


def test_what_is_no_clip_is_refused_and_leaves_nothing(tmp_path):
    for name, words in broken_clips(tmp_path).items():
        with pytest.raises(UserError, match=words) as caught:
            make_video(ByColour(), tmp_path / name, tmp_path / "out" / "demo.mp4")
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_heads_and_points_that_are_not_there(tmp_path):
    folder = write_frames(tmp_path / "frames", moving(2))
    with pytest.raises(UserError, match="head=4: this encoder has 3 heads"):
        make_video(ByColour(), folder, tmp_path / "demo.mp4", head=4)
    with pytest.raises(UserError, match="at=500,3 lies outside"):
        make_video(ByColour(), folder, tmp_path / "demo.mp4", "similarity", at=(500, 3))


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def write():
        with h264_writer(tmp_path / "demo.mp4", Fraction(24), 32, 32) as add:
            add(np.zeros((32, 32, 3), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not list(tmp_path.iterdir())


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'dinolab\[video\]'"):
        make_video(ByColour(), write_frames(tmp_path / "frames", moving(1)), tmp_path / "demo.mp4")
