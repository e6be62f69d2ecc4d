"""The pixels that a network takes: described in one place, and carried from the images' source to the model card."""

from dataclasses import asdict, dataclass
from typing import Any

LARGEST = 1e30  # number that makes sense in a Pixels


@dataclass(frozen=True)
class Pixels:
    """How images become a network's input.

    A value v of a channel, from 0 to `maximum`, becomes (v / maximum - mean) / deviation. Raises ValueError where there is not
    one mean and one deviation for each channel.
    """

    channels: int = 3
    maximum: int = 255  # largest value that images are stored with; 255 for uint8
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of each channel, once values lie in [0, 1]
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)  # standard deviation of each channel

    def __post_init__(self) -> None:
        numbers = (self.channels, self.maximum, *self.mean, *self.deviation)
        if not all(isinstance(n, int | float) and abs(n) < LARGEST for n in numbers) or not all(self.deviation):
            raise ValueError("pixels: mean and deviation are numbers, and no deviation is 0")
        if not self.channels == len(self.mean) == len(self.deviation):
            counts = f"{len(self.mean)} means and {len(self.deviation)} deviations"
            raise ValueError(f"pixels: {self.channels} channels, but {counts}; give one of each for every channel")

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as `from_json` reads them."""
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Pixels":
        """The pixels that `to_json` described.

        Raises:
            TypeError: there is a field that does not exist.
            ValueError: the number of channels does not match the other fields.
        """
        fields: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in content.items()}
        return Pixels(**fields)


RGB = Pixels()
"""Eight-bit RGB with ImageNet's mean and standard deviation, as DINO and DINOv2 use them."""
