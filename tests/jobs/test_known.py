"""How a copy differs from the known set."""

import numpy as np

from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.jobs import known
from dinolab.jobs.known import CLASSES, SHA256, differences


def test_the_known_counts_are_no_difference_and_others_are_named():
    labels = np.repeat(np.arange(15), 840)
    whole = Source("whole", [f"/nowhere/{n}.jpg" for n in range(len(labels))], labels, list(CLASSES))
    assert differences([whole], 5400) == ["none of the images whose checksums are known is there by name"]
    part = Source("part", whole.paths[:-1], labels[:-1], list(CLASSES))
    said = differences([part], 0)
    assert "12,599 labelled images, 12,600 are known" in said
    assert "839 to 840 labelled images of a class, 840 are known" in said
    assert "0 unlabelled images, 5,400 are known" in said


def test_classes_are_named():
    source = Source("mine", ["/a.jpg", "/b.jpg"], np.array([0, 1]), ["calling", "juggling"])
    said = differences([source], 5400)
    assert said[0] == "classes that the known set does not have: juggling"
    assert said[1] == "classes of the known set that are not there: clapping; cycling; dancing; and 11 more"


def test_real_photos_have_the_known_checksums(har, monkeypatch):
    sides = [open_source(str(har / sheet)) for sheet in ("Training_set.csv", "Testing_labels.csv")]
    assert {*SHA256} <= {path.rpartition("/")[2] for side in sides for path in side.paths}
    assert differences(sides, 0) == [
        "7,200 labelled images, 12,600 are known",
        "480 labelled images of a class, 840 are known",
        "0 unlabelled images, 5,400 are known",
    ]
    monkeypatch.setitem(known.SHA256, "Image_6.jpg", "0123456789abcdef")
    other = "1 of 14 images with a known checksum have another content: Image_6.jpg"
    assert other in differences(sides, 0)
