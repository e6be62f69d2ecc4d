"""dinolab's step: the same functions as in a run, on batches from the run's own loader."""

import torch
from turns import Turns

from dinolab.bench.step import values
from dinolab.data.loader import batches
from dinolab.data.sources import open_source
from dinolab.precision import autocast, choose_precision
from dinolab.recipes import load_config
from dinolab.runs.build import build_method, needs_of
from dinolab.training.loop import train_step
from dinolab.training.optim import make_optimizer


def main() -> None:
    turns = Turns()
    case = turns.case
    cfg = load_config("dinov2_vits14", [
        f"data.path={case['photos']}", "run.device=cpu", f"run.precision={case['precision']}",
        f"optim.batch_size={case['batch']}", f"head.prototypes={case['prototypes']}", f"model.drop_path={case['drop_path']}",
        f"views.global_size={case['global_size']}", f"views.local_size={case['local_size']}", f"views.locals={case['locals']}",
    ])  # fmt: skip
    device = torch.device("cpu")
    method = build_method(cfg, device).train()
    optimizer = make_optimizer(method.student, cfg.optim)
    loader = batches(open_source(case["photos"]), cfg, 0, 10**6, workers=0, needs=needs_of(cfg))
    s, precision = values(cfg), autocast(device, choose_precision(cfg.run.precision, device))
    turns.ready("dinolab")
    while True:
        views = next(loader)
        turns.loaded()
        parts, _, _ = train_step(method, optimizer, views, s, cfg.optim, precision)
        turns.stepped(float(parts[0]["loss"]))


if __name__ == "__main__":
    main()
