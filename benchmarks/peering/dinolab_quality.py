"""Train dinolab's recipe small_10k for a number of steps, and write the features of some images."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

import dinolab
from dinolab.models.encoder import BackboneEncoder
from dinolab.recipes import load_config
from dinolab.runs.build import build_method


def main() -> None:
    case = json.loads(Path(sys.argv[1]).read_text())
    folder, steps = Path(case["folder"]), case["steps"]
    listed = folder / "photos.txt"
    listed.write_text("\n".join(case["photos"]) + "\n")
    words = [
        f"data.path={listed}", f"run.dir={folder / 'run'}", f"optim.length={max(1, steps)} steps", f"seed={case['seed']}",
        "run.device=cpu", "run.workers=0", "run.pictures=false", "eval.every=0 steps", "run.precision=fp32",
    ]  # fmt: skip
    if steps:
        encoder = dinolab.load(dinolab.train("small_10k", *words))
    else:
        encoder = BackboneEncoder(build_method(load_config("small_10k", words), torch.device("cpu")).product.eval())
    for images, out in case["features"]:
        parts = torch.from_numpy(np.load(images)).split(100)
        np.save(out, torch.cat([encoder(part).cls for part in parts]).float().numpy())


if __name__ == "__main__":
    main()
