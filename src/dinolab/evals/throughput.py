"""Images a second of an encoder's bare forward: what accuracy is set against."""

import statistics
from typing import Any

import torch

from dinolab.models.encoder import evaluating
from dinolab.timing import WARM_UP, describe, seconds_of

BATCH = {"cuda": 128, "mps": 32, "cpu": 8}
REPEATS, SECONDS = 5, 1.0  # at least, of both


def throughput(encoder: Any, size: tuple[int, int], device: torch.device, precision: str = "fp32") -> dict[str, Any]:
    """images_per_s: median over the repeats, for random images of `size`, (height, width) in pixels, that lie on the device.

    Beside it batch_size, device, precision and the number of repeats. The encoder is moved to `device`.
    """
    batch = BATCH[device.type]
    images = torch.randint(0, 256, (batch, encoder.pixels.channels, *size), dtype=torch.uint8, device=device)
    encoder.to(device)
    times: list[float] = []
    with evaluating(encoder), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
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
