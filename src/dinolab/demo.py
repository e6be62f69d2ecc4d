"""The demo: generate images, train a network on them, evaluate it and draw pictures, without a download."""

import json
import time
from pathlib import Path

import numpy as np
import torch

from dinolab.data.decode import read_image
from dinolab.data.digits import SIDE, make_scenes
from dinolab.data.sources import open_source
from dinolab.evals import knn
from dinolab.features.pixels import PixelEncoder
from dinolab.files import write_whole
from dinolab.models.encoder import BackboneEncoder, Encoder
from dinolab.recipes import load_config
from dinolab.runs.build import build_method
from dinolab.runs.train import train
from dinolab.visuals.attention import attention_maps, best_head_jaccard
from dinolab.weights.load import load

SCENES = 100  # test scenes whose attention is compared with their masks


def demo(folder: Path) -> dict[str, float]:
    """Run the demo in `folder`; print and return the k-NN accuracy on test digits, for raw pixels, before and after training."""
    began = time.perf_counter()
    scenes = make_scenes(folder / "scenes")
    words = [f"data.path={scenes / 'train'}", f"eval.train={scenes / 'train'}", f"eval.test={scenes / 'test'}"]
    cfg = load_config("demo", [*words, f"run.dir={folder / 'run'}"])

    before = BackboneEncoder(
        build_method(cfg, torch.device("cpu")).product
    )  # with the weights that the run begins with
    train(cfg)
    after = load(folder / "run")

    reference, query = (open_source(str(scenes / part), need_labels=True) for part in ("train", "test"))
    accuracy = {
        name: knn.monitor(encoder, reference, query, SIDE, cfg.eval.k)["knn"]
        for name, encoder in (("raw pixels", PixelEncoder()), ("before training", before), ("after training", after))
    }
    overlap = {name: digit_overlap(encoder, scenes) for name, encoder in (("before", before), ("after", after))}
    found = {"knn": accuracy, "attention_jaccard": overlap}
    write_whole(folder / "demo.json", (json.dumps(found, indent=2) + "\n").encode())

    print(f"\nk-NN accuracy on {len(query)} test scenes, whose digits are in no training scene (chance: 10 %):")
    for name, value in accuracy.items():
        print(f"  {name:16} {value:6.1%}")
    print(
        "Overlap of the best head's attention with the digit (Jaccard index): "
        f"{overlap['before']:.2f} before training, {overlap['after']:.2f} after"
    )
    print(f"{time.perf_counter() - began:.0f} s. Pictures: {folder / 'run'}/curves.png, attention.png, pca.png")
    return accuracy


def digit_overlap(encoder: Encoder, scenes: Path) -> float:
    """Compute the mean Jaccard index of the best head's attention with the digits' true masks, over some test scenes."""
    paths = sorted((scenes / "test").glob("*/*.png"))
    paths = paths[:: max(1, len(paths) // SCENES)]
    pictures = np.stack([read_image(p).transpose(2, 0, 1) for p in paths])
    masks = np.stack([read_image(scenes / "masks" / p.relative_to(scenes))[..., 0] > 0 for p in paths])
    maps = attention_maps(encoder, torch.from_numpy(pictures))
    return best_head_jaccard(maps, torch.from_numpy(masks))["best"]
