"""Human Action Recognition in small: Kaggle's layout, coloured squares."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

CLASSES = ("calling", "cycling", "sleeping")


def write_sheet(file: Path, rows: list[tuple[str, ...]]) -> None:
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["filename", "label"][: len(rows[0])])
        writer.writerows(rows)


def read_sheet(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def make_har(folder: Path, train: int = 8, test: int = 4, labels: bool = True, side: int = 24) -> Path:
    """`train` and `test` images of each class; with `labels` also Testing_labels.csv."""
    rng = np.random.default_rng(0)
    number = 0
    for part, sheet, count in (("train", "Training_set.csv", train), ("test", "Testing_labels.csv", test)):
        (folder / part).mkdir(parents=True)
        rows = []
        for label, name in enumerate(CLASSES * count):
            number += 1
            colour = np.where(np.arange(3) == label % 3, 200, 40)
            picture = (colour + rng.normal(0, 40, (side, side, 3))).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / part / f"Image_{number}.jpg"), picture)
            rows.append((f"Image_{number}.jpg", name))
        if part == "train" or labels:
            write_sheet(folder / sheet, rows)
        if part == "test":
            write_sheet(folder / "Testing_set.csv", [row[:1] for row in rows])
    return folder


@pytest.fixture
def small_har(tmp_path) -> Path:
    return make_har(tmp_path / "har")
