from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dinolab.data import digits
from dinolab.data.decode import read_image
from dinolab.data.sources import open_source


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits.make_scenes(tmp_path_factory.mktemp("scenes"))


def test_counts_classes_and_masks(scenes: Path) -> None:
    train, test = (open_source(str(scenes / part), need_labels=True) for part in ("train", "test"))
    assert (len(train), len(test)) == (4000, 1000)
    assert train.classes == test.classes == [str(n) for n in range(10)]
    assert np.bincount(test.labels).min() > 50
    for path in test.paths[::100]:
        scene, mask = read_image(path), read_image(scenes / "masks" / Path(path).relative_to(scenes))[..., 0]
        assert scene.shape == (32, 32, 3) and set(np.unique(mask)) == {0, 255}
        assert 0.02 < (mask > 0).mean() < 0.6
        assert scene[mask > 0].mean() > scene[mask == 0].mean() + 30  # the digit is the brighter


def test_held_out_scenes_show_other_source_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[tuple[bytes, str]] = []
    draw = digits.draw_scene

    def note(digit: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        drawn.append((digit.tobytes(), "test" if len(drawn) < digits.SIZES["test"] else "train"))
        return draw(digit, rng)

    monkeypatch.setattr(digits, "draw_scene", note)
    digits.make_scenes(tmp_path)
    parts = {part: {source for source, of in drawn if of == part} for part in ("train", "test")}
    assert not parts["train"] & parts["test"]
    assert len(parts["train"]) + len(parts["test"]) == len({x.tobytes() for x in load_digits().images})


def test_the_same_scenes_again_and_not_written_twice(scenes: Path, tmp_path: Path) -> None:
    again = digits.make_scenes(tmp_path)
    for path in sorted((scenes / "train").glob("*/*.png"))[::500]:
        assert path.read_bytes() == (again / path.relative_to(scenes)).read_bytes()
    stamp = next((again / "train").glob("*/*.png")).stat().st_mtime_ns
    digits.make_scenes(again)
    assert next((again / "train").glob("*/*.png")).stat().st_mtime_ns == stamp
