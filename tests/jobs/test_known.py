"""How a copy differs from the known set."""

import numpy as np

from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.jobs import known
from dinolab.jobs.known import CLASSES, SHA256, differences


def test_the_known_counts_are_no_difference_and_others_are_named():
    labels = np.repeat(np.arange(15), 840)
    whole = Source("whole", [f"/nowhere/{n}.jpg" for n in range(len(labels))], labels, list(CLASSES))
    assert differences([whole], 5400) == ["no image has the name of one whose checksum is known"]
    part = Source("part", whole.paths[:-1], labels[:-1], list(CLASSES))
    found = differences([part], 0)
    assert "12,599 labelled images instead of 12,600" in found
    assert "839 to 840 labelled images of a class instead of 840" in found
    assert "0 unlabelled images instead of 5,400" in found


def test_classes_are_named():
    source = Source("mine", ["/a.jpg", "/b.jpg"], np.array([0, 1]), ["calling", "juggling"])
    found = differences([source], 5400)
    assert found[0] == "classes that the published set does not have: juggling"
    assert found[1] == "classes of the published set that are missing: clapping; cycling; dancing; and 11 more"


def test_real_photos_have_the_known_checksums(har, monkeypatch):
    sides = [open_source(str(har / sheet)) for sheet in ("Training_set.csv", "Testing_labels.csv")]
    assert {*SHA256} <= {path.rpartition("/")[2] for side in sides for path in side.paths}
    assert differences(sides, 0) == [
        "7,200 labelled images instead of 12,600",
        "480 labelled images of a class instead of 840",
        "0 unlabelled images instead of 5,400",
    ]
    monkeypatch.setitem(known.SHA256, "Image_6.jpg", "0123456789abcdef")
    other = "1 of 14 images with a published checksum have other contents: Image_6.jpg"
    assert other in differences(sides, 0)
