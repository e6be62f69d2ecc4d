"""A toy kind of source in one file: `toy:N` is N generated images of two classes, in turn."""

from collections.abc import Sequence

import cv2
import numpy as np

from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.errors import UserError

CLASSES = ("blue", "red")
SIDE = 24  # pixels


class Toy(Kind):
    """The parts of a location are the class and the number of the image."""

    title = "generated images (toy:NUMBER)"

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        if not request.path.isdecimal() or not int(request.path):
            raise UserError(f"{request.named}: give the number of images, as toy:12")
        labels = [CLASSES[n % 2] for n in range(int(request.path))]
        return Listing([f"{label}\0{n}" for n, label in enumerate(labels)], labels)

    def read(self, parts: Sequence[str]) -> bytes:
        label, number = parts
        image = np.random.default_rng(int(number)).integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
        image[..., 2 if label == "red" else 0] += 120  # OpenCV's order is BGR
        return cv2.imencode(".png", image)[1].tobytes()

    def describe(self, parts: Sequence[str]) -> str:
        return f"generated image {parts[1]}"


TOY = Toy()
