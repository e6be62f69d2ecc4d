"""The demo video is written, read back with PyAV, and looked at: where panels, bars, chart and cursor are, and what they show."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from dinolab.cli import main
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.visuals.action_canvas import HEADER, LABEL, MARGIN, lay_out
from dinolab.visuals.action_strip import COLOURS, GREY, STRIP, Strip
from dinolab.visuals.action_video import action_video, average, class_tokens
from dinolab.weights import load as weights
from tests.pictures import make_folder
from tests.visuals.planted import ByColour, scene
from tests.visuals.test_video import pixels, write_clip

av = pytest.importorskip("av")
CLASSES = ["red", "green", "blue"]


@pytest.fixture(autouse=True)
def short_title(monkeypatch):
    monkeypatch.setattr("dinolab.visuals.action_video.CARD", 1)


def read_back(path, *wanted: int):
    """The stream, how many frames it has, and the wanted ones: all of them would fill the memory."""
    with av.open(str(path)) as container:
        found, count = {}, 0
        for frame in container.decode(video=0):
            if count in wanted:
                found[count] = frame.to_ndarray(format="rgb24").astype(int)
            count += 1
        return container.streams.video[0], count, found


def by_colour(tokens):
    """The brightest channel of the mean colour is the class."""
    assert tokens.dtype == torch.float32 and tokens.ndim == 2
    return (40 * tokens).softmax(1)


def plain(*colour: int, height: int = 48, width: int = 64) -> np.ndarray:
    """One colour, darker to the right: a PCA needs some variance."""
    fade = np.linspace(1, 0.8, width)[None, :, None]
    return (np.array(colour) * fade).repeat(height, 0).astype(np.uint8)


RED, GREEN, BLUE = plain(220, 40, 40), plain(40, 220, 40), plain(40, 40, 220)


def bar_colour(frame: np.ndarray) -> np.ndarray:
    """The colour of the most probable class's bar, at its left end."""
    top = frame.shape[0] - MARGIN - STRIP
    return frame[top + 44 : top + 52, MARGIN + 4 : MARGIN + 20].mean((0, 1))


def test_a_clip_whose_class_changes(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", [RED] * 7 + [BLUE] * 5, Fraction(10))
    out = tmp_path / "new" / "demo.mp4"
    encoder = ByColour().train()
    assert action_video(encoder, by_colour, CLASSES, path, out, "Colours", 32) == 10 + 12
    assert encoder.training
    stream, count, got = read_back(out, 0, 9, 10, 19, 21)
    assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 10)
    assert count == 22
    assert got[0].shape[0] % 2 == got[0].shape[1] % 2 == 0
    assert out.read_bytes().find(b"moov") < out.read_bytes().find(b"mdat")  # a browser may begin before it has all
    card, first, last = got[0], got[10], got[21]
    assert np.abs(card - got[9]).mean() < 1
    assert card.max() > 200 and card.mean() < 50  # writing on dark
    middle = HEADER + LABEL + 200
    for frame, shown in ((first, RED), (last, BLUE)):
        assert np.abs(frame[middle, 300] - shown[24, 30]).max() < 25
    assert np.abs(bar_colour(first) - COLOURS[0]).max() < 20  # red is the more frequent
    assert np.abs(bar_colour(last) - COLOURS[1]).max() < 20
    panels = [frame[middle, MARGIN + 628 * 2 + 40] for frame in (last, got[19])]
    assert np.abs(panels[0] - panels[1]).max() < 8  # the PCA's colours stay


def test_the_cursor_moves_and_colours_follow_the_most_probable_class():
    shares = np.zeros((10, 9))
    shares[np.arange(10), [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]] = 0.9
    strip = Strip(shares, [f"class {c}" for c in range(9)], 1.0, 1200)
    assert strip.colours[0] == COLOURS[0]
    assert len(strip.colours) == len(COLOURS) < 9
    places = []
    for n in range(10):
        drawn = strip.draw(n)
        assert drawn.shape == (STRIP, 1200, 3)
        white = (drawn[20:200, strip.left :] == 255).all((0, 2))
        places.append(np.flatnonzero(white).mean())
        assert tuple(drawn[48, 5]) == strip.colours.get(int(shares[n].argmax()), GREY)
        assert tuple(drawn[48, int(0.85 * strip.left)]) != (58, 58, 58) != tuple(drawn[48, int(0.95 * strip.left)][:2])
        assert tuple(drawn[48, int(0.95 * strip.left)]) == (58, 58, 58)  # 90 % and no more
    steps = np.diff(places)
    assert steps.min() > 0 and steps.max() - steps.min() <= 1


def test_neighbouring_frames_are_averaged_as_a_plain_loop_does():
    shares = np.random.default_rng(0).dirichlet(np.ones(4), 9)
    for half in (0, 1, 3, 20):
        expected = [shares[max(0, n - half) : n + half + 1].mean(0) for n in range(9)]
        np.testing.assert_allclose(average(shares, half), expected, atol=1e-12)


def test_photos_of_other_shapes_keep_theirs_and_stand_for_a_second(tmp_path):
    photos = {"1": plain(220, 40, 40), "2": plain(40, 40, 220, height=64, width=32), "10": GREEN}
    for name, picture in photos.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture[..., ::-1])
    out = tmp_path / "demo.mp4"
    assert action_video(ByColour(), by_colour, CLASSES, tmp_path, out, size=32) == 10 + 30
    stream, _, got = read_back(out, *range(10, 40))
    assert stream.average_rate == 10
    middle = HEADER + LABEL + 231
    for n, picture in enumerate(photos.values()):
        for frame in (got[10 + 10 * n], got[19 + 10 * n]):
            assert np.abs(frame[middle, MARGIN + 308] - picture[20, picture.shape[1] // 2]).max() < 25
    assert got[25][middle, MARGIN + 20].max() < 40  # beside the upright one
    paths = [tmp_path / "10.png", str(tmp_path / "1.png")]
    assert action_video(ByColour(), by_colour, CLASSES, paths, tmp_path / "list.mp4", size=32) == 10 + 20
    assert np.abs(read_back(tmp_path / "list.mp4", 10)[2][10][middle, MARGIN + 308] - GREEN[20, 32]).max() < 25


def test_the_true_class_of_a_photo_is_shown_above_it(tmp_path):
    paths = []
    for n, colour in enumerate([(200, 30, 30), (30, 200, 30)]):
        paths.append(tmp_path / f"{n}.png")
        cv2.imwrite(str(paths[-1]), plain(*colour)[..., ::-1])
    above = {}
    for name, labels in (("none", []), ("same", ["red", "red"]), ("own", ["red", "green"])):
        out = tmp_path / f"{name}.mp4"
        action_video(ByColour(), by_colour, CLASSES, paths, out, size=32, labels=labels)
        first, second = (frame[HEADER : HEADER + LABEL] for frame in read_back(out, 12, 25)[2].values())
        above[name] = np.stack([first, second])
    changed = {name: np.abs(above[name] - above["own"]).max(axis=(1, 2, 3)) > 60 for name in ("none", "same")}
    assert changed["none"].tolist() == [True, True] and changed["same"].tolist() == [False, True]


def test_without_a_class_token_there_is_no_attention(tmp_path):
    encoder = ByColour()
    encoder.has_class_token = False
    encoder.attention = None
    path = write_clip(tmp_path / "clip.mp4", [RED, BLUE], Fraction(4))
    action_video(encoder, by_colour, CLASSES, path, tmp_path / "demo.mp4", size=32)
    assert read_back(tmp_path / "demo.mp4")[0].width == lay_out("", 2, 4 / 3).width


def test_class_tokens_are_those_of_evaluation_views_in_order():
    frames = [pixels(scene(48, 80, 2 * n, 8)) for n in range(35)]
    encoder = ByColour().eval()
    tokens, aspect = class_tokens(encoder, iter(frames), 32)
    assert (len(tokens), aspect) == (35, 80 / 48)
    for n in (0, 31, 32, 34):
        view = torch.from_numpy(eval_view(frames[n], 32))
        torch.testing.assert_close(tokens[n], encoder(view[None]).cls[0])
    assert len(class_tokens(encoder, iter(frames[:32]), 32)[0]) == 32


@pytest.mark.parametrize("aspect", [0.3, 0.5625, 1.0, 1.37, 16 / 9, 4.0])
def test_canvases_have_even_sides_and_room_for_writing(aspect):
    for panels in (2, 3):
        made = lay_out("", panels, aspect)
        assert made.height % 2 == made.width % 2 == 0
        assert made.width >= 1278
        assert made.lefts[-1] + made.panel[1] <= made.width - MARGIN


def test_a_classifier_of_other_classes_is_refused_and_leaves_nothing(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", [RED] * 3)
    for wrong in (lambda x: by_colour(x)[:, :2], lambda x: by_colour(x)[:1], lambda x: by_colour(x) * float("nan")):
        with pytest.raises(UserError, match="for 3 frames and 3 classes"):
            action_video(ByColour(), wrong, CLASSES, path, tmp_path / "out" / "demo.mp4", size=32)
    with pytest.raises(UserError, match="no such video"):
        action_video(ByColour(), by_colour, CLASSES, tmp_path / "none.mp4", tmp_path / "out" / "demo.mp4")
    assert not (tmp_path / "out").exists()


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = Model(size="tiny", dim=16, depth=2, heads=2, patch_size=4, registers=1)
    (tmp_path / "run").mkdir()
    weights.save_encoder(ViT(model, 16), tmp_path / "run", {})
    train = make_folder(tmp_path / "train", classes=3)
    path = write_clip(tmp_path / "clip.mp4", [RED, GREEN] * 2, Fraction(4))
    words = ["show", "action", str(tmp_path / "run"), str(path), "device=cpu"]
    assert main([*words, f"train={train}"]) == 0
    out = tmp_path / "run" / "show_action.mp4"
    assert capsys.readouterr().out == f"{out}: 24 frames\n"
    assert read_back(out)[1] == 24
    (tmp_path / "one").mkdir()
    (train / "class0").rename(tmp_path / "one" / "class0")
    for more, expected in (
        (["train=nowhere"], "train=nowhere: no such"),
        ([f"train={tmp_path / 'one'}"], "train="),
        ([f"train={train}", f"out={path}"], "exists already"),
    ):
        assert main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
    words[3] = "nothing.mp4"
    assert main([*words, f"train={train}"]) == 2
    assert "nothing.mp4: no such video" in capsys.readouterr().err
