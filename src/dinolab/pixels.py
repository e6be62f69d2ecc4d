"""What the pixels of an image are: said once, and carried from the images' source to the model card."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Pixels:
    """How images become a network's input.

    A pixel value v of a channel, from 0 to `maximum`, becomes (v / maximum - mean) / deviation.
    """

    channels: int = 3
    maximum: int = 255  # of the values that images are stored with; 255 for uint8
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of each channel, once values lie in [0, 1]
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)  # standard deviation of each channel

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Pixels":
        """Raises TypeError for a field that does not exist."""
        fields: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in content.items()}
        return Pixels(**fields)


RGB = Pixels()
"""Eight-bit RGB with ImageNet's mean and standard deviation, as DINO and DINOv2 use them."""
