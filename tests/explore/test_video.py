"""A real video, frame by frame."""

import av
import numpy as np
import pytest
import torch

from dinolab.explore.options import ExploreOptions
from dinolab.visuals.similarity import similarity_map
from tests.explore.conftest import serving
from tests.explore.pointing import hover, likeness, show

FRAMES = 24


@pytest.fixture(scope="module")
def session(encoders, tmp_path_factory):
    """Two videos of a bright square that moves, down a grey picture or across it."""
    from dinolab.explore.session import Session

    folder = tmp_path_factory.mktemp("videos")
    for name, (down, across) in {"a": (1, 0), "b": (0, 1)}.items():
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width = stream.height = 64
            for number in range(FRAMES):
                picture = np.full((64, 64, 3), 60, np.uint8)
                picture[2 * number * down : 2 * number * down + 16, 2 * number * across : 2 * number * across + 16] = (
                    220
                )
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    options = ExploreOptions(data=f"video:{folder}", cache=str(folder / "cache"), device="cpu", workers=0)
    return Session([encoders[0]], options)


@pytest.fixture(scope="module")
def address(session):
    with serving(session) as found:
        yield found


def test_a_video_is_shown_frame_by_frame(opened, session, address):
    page = opened(address)
    show(page, 2)
    slider, words = page.get_by_label("Frame of the video"), page.locator(".panel .slider:visible").first
    assert "frame 3 of 24" in words.inner_text()
    assert page.locator(".panel h2").inner_text() == "a.mp4, frame 3 of 24"
    assert page.locator(".panel .tile", has_text="a.mp4").first.inner_text().count("of 24") == 1
    assert page.locator("#colour").input_value() == "cluster"  # there are no labels, and all dates are alike
    page.keyboard.press("]")
    page.wait_for_function("() => Explorer.panels[0].painting.image === 3")
    slider.fill("23")
    page.wait_for_function("() => Explorer.panels[0].painting.image === 23")
    assert "frame 24 of 24" in words.inner_text()
    page.keyboard.press("]")  # the other video is not a part of it
    page.get_by_role("button", name="Previous").click()
    page.wait_for_function("() => Explorer.panels[0].painting.image === 22")
    show(page, 22)
    hover(page, 0, 1, 2)
    maps, numbers = likeness(page, 0)
    looker = session.lookers[session.first]
    query = torch.from_numpy(looker.patches(22)).float()[1, 2]
    for found, number in zip(maps, numbers, strict=True):
        expected = similarity_map(torch.from_numpy(looker.patches(number)), query)
        np.testing.assert_allclose(found, expected.flatten(), atol=1e-2)
    tops = [int((session.pictures.read(n)[:, 8, 0] > 140).argmax()) for n in range(FRAMES)]
    assert tops == sorted(set(tops))  # frames come in the order of the video
