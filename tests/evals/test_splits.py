"""The split that is drawn where no test images are given, and the file that keeps it."""

import json
import shutil

import numpy as np
import pytest

from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.splits import draw, held_out
from tests.pictures import make_folder


def labelled(labels, classes=3):
    return Source("s", [f"/d/{i}.png" for i in range(len(labels))], np.array(labels), list("abcdef")[:classes])


def test_a_share_of_each_class_is_held_out_another_with_another_seed():
    source = labelled([0] * 50 + [1] * 20 + [2] * 2)
    held = draw(source, np.arange(72), 0.2, seed=0)
    assert [int(held[source.labels == c].sum()) for c in range(3)] == [10, 4, 1]
    assert (held == draw(source, np.arange(72), 0.2, seed=0)).all()
    assert (held != draw(source, np.arange(72), 0.2, seed=1)).any()


def test_a_group_is_never_parted_and_shares_stay():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    groups = rng.integers(0, 150, 300)  # pairs and triples, also across classes
    held = draw(labelled(labels), groups, 0.2, seed=0)
    for number in np.unique(groups):
        assert len(np.unique(held[groups == number])) == 1
    for c in range(3):
        assert 0.1 < held[labels == c].mean() <= 0.21


def test_classes_that_cannot_be_parted_stay_in_training(caplog):
    labels, groups = [0] * 10 + [1] * 4 + [2], [*range(10), 20, 20, 20, 20, 30]
    held = draw(labelled(labels), np.array(groups), 0.2, seed=0)
    assert held[:10].sum() == 2 and not held[10:].any()
    assert "no image of b, c is held out" in caplog.text
    with pytest.raises(UserError, match="no images can be held out"):
        draw(labelled([0, 1, 2]), np.arange(3), 0.2, seed=0)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "photos", per_class=10, classes=2)


def test_copies_lie_on_one_side(folder):
    for n in range(8):
        shutil.copy(folder / "class0" / f"{n:03d}.png", folder / "class1" / f"copy{n}.png")
    source = open_source(str(folder))
    for seed in range(4):
        held, _ = held_out(source, seed, None, progress=False)
        side = dict(zip((path.split("photos/")[1] for path in source.paths), held))
        assert all(side[f"class0/{n:03d}.png"] == side[f"class1/copy{n}.png"] for n in range(8))
    kept = json.loads((folder.parent / "photos.split-3.json").read_text())
    assert kept["seed"] == 3 and kept["images_with_near_duplicates"] == 8


def test_the_file_decides_the_next_time(folder, tmp_path):
    source = open_source(str(folder))
    held, described = held_out(source, 0, None, progress=False)
    place = tmp_path / "photos.split-0.json"
    assert described == f"20% held out, {place}" and held.sum() == 4
    kept = json.loads(place.read_text())
    assert kept["test"] == [p.split("photos/")[1] for p, out in zip(source.paths, held) if out]
    place.write_text(json.dumps(kept | {"test": ["class0/003.png"]}))
    assert np.flatnonzero(held_out(source, 0, None, progress=False)[0]).tolist() == [3]


def test_the_file_is_true_after_the_folder_has_moved(folder, tmp_path):
    held, _ = held_out(open_source(str(folder)), 0, None, progress=False)
    shutil.move(folder, tmp_path / "elsewhere")
    shutil.move(tmp_path / "photos.split-0.json", tmp_path / "elsewhere.split-0.json")
    again = held_out(open_source(str(tmp_path / "elsewhere")), 0, None, progress=False)[0]
    assert (held == again).all()


@pytest.mark.parametrize("change", ["a new image", "another label"])
def test_other_images_are_refused(folder, change):
    for seed in (0, 1):
        held_out(open_source(str(folder)), seed, None, progress=False)
    if change == "a new image":
        shutil.copy(folder / "class0" / "000.png", folder / "class0" / "new.png")
    else:
        shutil.move(folder / "class0" / "000.png", folder / "class1" / "000b.png")
    with pytest.raises(
        UserError, match=r"photos.split-0.json: .* other images or labels by now .*delete all 2 files .*split-\*"
    ):
        held_out(open_source(str(folder)), 0, None, progress=False)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprint": 3, "test": 4}', "\xff"])
def test_a_damaged_file_is_named(folder, tmp_path, content):
    (tmp_path / "photos.split-0.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"photos.split-0.json: not a split.*delete it"):
        held_out(open_source(str(folder)), 0, None, progress=False)


def test_where_the_data_s_place_cannot_be_written_it_is_kept_with_the_results(folder, tmp_path, monkeypatch, caplog):
    from dinolab.evals import splits

    write = splits.write_whole

    def refuse(path, content):
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        write(path, content)

    monkeypatch.setattr(splits, "write_whole", refuse)
    source, out = open_source(str(folder)), tmp_path / "out"
    held, described = held_out(source, 0, out, progress=False)
    assert (
        described.endswith(str(out / "split-0.json")) and "photos.split-0.json: the split cannot be kept" in caplog.text
    )
    caplog.clear()
    assert (held_out(source, 0, out, progress=False)[0] == held).all() and not caplog.text


def test_a_pattern_s_split_is_kept_with_the_results(folder, tmp_path):
    source = open_source(str(folder))
    unnamed = Source("s3://photos/{0..9}.tar", source.paths, source.labels, source.classes)
    assert held_out(unnamed, 0, tmp_path / "out", progress=False)[1].endswith("out/split-0.json")
    assert held_out(unnamed, 0, None, progress=False)[1] == "20% held out, not kept"
