"""Near-duplicates: what is found as a copy and what is not, and groups against all pairs."""

import cv2
import numpy as np
import pytest

from dinolab.data.decode import read_image
from dinolab.data.types import Source
from dinolab.features.duplicates import NEAR, find_groups, group, hash_file, perceptual_hash
from tests.pictures import make_folder


def resave(image):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)


COPIES = {
    "saved again": resave,
    "half the size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "enlarged": lambda image: cv2.resize(image, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC),
    "brighter": lambda image: (255 * (image / 255.0) ** 0.8).astype(np.uint8),
    "grey": lambda image: image.mean(2, keepdims=True).repeat(3, 2).astype(np.uint8),
}


@pytest.fixture(scope="module")
def photos(har):
    return [read_image(path) for path in sorted((har / "train").iterdir())[:60]]


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_near_and_other_photographs_are_not(photos, change):
    hashes = np.array([perceptual_hash(photo) for photo in photos])
    changed = np.array([perceptual_hash(COPIES[change](photo)) for photo in photos])
    bits = np.bitwise_count(hashes[:, None] ^ changed[None])
    assert (bits.diagonal() <= NEAR).mean() > 0.95
    assert bits[~np.eye(len(photos), dtype=bool)].min() > NEAR


def brute_force(hashes, near):
    """Numbers of the groups by flooding from each image in turn."""
    groups = np.full(len(hashes), -1)
    for start in range(len(hashes)):
        reached = [start] if groups[start] < 0 else []
        while reached:
            at = reached.pop()
            groups[at] = start
            close = np.bitwise_count(hashes ^ hashes[at]) <= near
            reached += np.flatnonzero(close & (groups < 0)).tolist()
    return groups


@pytest.mark.parametrize("near", [0, 3, 6])
def test_groups_against_all_pairs(near, monkeypatch):
    monkeypatch.setattr("dinolab.features.duplicates.CHUNK", 7)
    rng = np.random.default_rng(near)
    hashes = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    for i in range(150, 290):  # near another, by up to 9 bits anywhere, so that there are chains too
        flips = rng.choice(64, rng.integers(0, 10), replace=False)
        hashes[i] = hashes[rng.integers(0, i)] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64))
    own, expected = group(hashes, near), brute_force(hashes, near)
    assert len(np.unique(own)) == len(np.unique(expected)) < 300
    for number in np.unique(own):  # each of the one is within one of the other
        assert len(np.unique(expected[own == number])) == 1


def test_all_alike_are_one_group_and_none_are_none():
    assert len(np.unique(group(np.full(5000, 7, np.uint64)))) == 1
    assert len(group(np.array([], np.uint64))) == 0


def test_files_are_grouped_and_what_cannot_be_read_stands_alone(tmp_path):
    make_folder(tmp_path, per_class=4, classes=1, side=64)
    folder = tmp_path / "class0"
    picture = cv2.imread(str(folder / "000.png"))
    cv2.imwrite(str(folder / "copy.jpg"), cv2.resize(picture, (200, 200), interpolation=cv2.INTER_CUBIC))
    (folder / "broken1.jpg").write_bytes(b"no image")
    (folder / "broken2.jpg").write_bytes(b"nor this")
    paths = [str(path) for path in sorted(folder.iterdir())]
    groups = dict(zip((path.rsplit("/", 1)[1] for path in paths), find_groups(Source("s", paths, None, []), False)))
    assert groups["copy.jpg"] == groups["000.png"]
    assert len(set(groups.values())) == len(paths) - 1
    assert hash_file(str(folder / "broken1.jpg")) is None


def test_a_large_jpeg_is_hashed_small_as_it_would_be_whole(photos, tmp_path):
    for i, photo in enumerate(photos[:5]):
        large = cv2.resize(photo, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), large[..., ::-1])
        assert np.bitwise_count(hash_file(str(tmp_path / f"{i}.jpg")) ^ perceptual_hash(photo)) <= NEAR
