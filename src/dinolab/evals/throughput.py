"""Images per second of an encoder's forward pass alone."""

import statistics
from typing import Any

import torch

from dinolab.models.encoder import evaluating
from dinolab.precision import autocast, choose_precision
from dinolab.timing import WARM_UP, describe, seconds_of

BATCH = {"cuda": 128, "mps": 32, "cpu": 8}
REPEATS, SECONDS = 5, 1.0  # the least of each


def throughput(encoder: Any, size: tuple[int, int], device: torch.device, precision: str = "fp32") -> dict[str, Any]:
    """Measure the forward pass on random images that lie on the device already. The encoder is moved to `device`.

    Args:
        size: height and width of the images, in pixels.

    Returns:
        images_per_s, the median over repeats; batch_size; device; precision; repeats.
    """
    batch = BATCH[device.type]
    images = torch.randint(0, 256, (batch, encoder.pixels.channels, *size), dtype=torch.uint8, device=device)
    encoder.to(device)
    times: list[float] = []
    with evaluating(encoder), autocast(device, choose_precision(precision, device)):
        for _ in range(WARM_UP[device.type]):
            encoder(images)
        while len(times) < REPEATS or sum(times) < SECONDS:
            times.append(seconds_of(lambda: encoder(images), device))
    return {
        "images_per_s": batch / statistics.median(times),
        "batch_size": batch,
        "device": describe(device),
        "precision": precision,
        "repeats": len(times),
    }
