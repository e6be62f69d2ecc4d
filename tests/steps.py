"""A few steps of several configurations in float64, alone or as one of several processes.

    python -m tests.steps IMAGES OUT CASE,CASE key=value

Rounding cannot hide a mistake in float64, nor can Adam, which divides what should be zero by itself, make one of it.
"""

import sys
from pathlib import Path

import torch

from dinolab import parallel
from dinolab.data.loader import batches
from dinolab.data.sources import open_source
from dinolab.models.backbone import make_backbone
from dinolab.precision import autocast
from dinolab.recipes import load_config
from dinolab.runs.build import assemble, needs_of
from dinolab.training.loop import mean_over_parts, train_step
from dinolab.weights.load import save_encoder
from tests.pictures import TINY, fit_words

STEPS, BATCH = 10, 8
EXACT = {  # the same for any number of processes and micro-batches
    "dino": ["method=dino", "optim.clip_by=parameter", "optim.clip=0.01"],
    "dino sinkhorn": ["method=dino", "loss.targets=sinkhorn", "optim.name=sgd"],
    "dinov2": ["method=dinov2", "loss.targets=sinkhorn", "loss.koleo=0", "model.registers=2", "model.layerscale=0.1"],
    "dinov2 as published": [
        "method=dinov2",
        "loss.koleo=0",
        "head.train_norms=true",
        "ibot_head.separate=false",
        "loss.freeze_by=lr",
        "optim.clip_by=network",
        "optim.clip=0.1",
    ],
    "adapters and pull": ["method=dinov2", "loss.koleo=0", "init.weights=GIVEN", "init.lora=2", "init.pull=0.5"],
    "dino infonce": [
        "method=dino",
        "loss.compare=infonce",
        "head.predictor=true",
        "optim.name=lars",
        "optim.trust=0.1",
        "optim.lr=0.3",
    ],
    "swav queue": ["method=swav", "head.batch_norm=false", "loss.queue=16", "loss.queue_start=2 steps"],
    "deepcluster": ["method=deepcluster", "head.batch_norm=false", "clusters.number=5"],
    "obow": ["method=obow", "words.number=20", "words.view_size=20"],  # words: not a multiple of the batch
    "supervised": [
        "method=supervised",
        "loss.mixup=0",
        "loss.cutmix=0",
        "optim.name=lars",
        "optim.trust=0.1",
        "optim.lr=0.3",
    ],
    "dinov2 centring": ["method=dinov2", "loss.targets=centring", "loss.koleo=0", "model.ffn=swiglu", "optim.clip=0.1"],
    "byol": ["method=byol", "views.locals=0", "head.batch_norm=false"],
    "mocov2": ["method=mocov2", "views.locals=0", "loss.queue=20"],  # not a multiple of the batch
    "simclr": ["method=simclr", "views.locals=0", "head.batch_norm=false"],
    "barlow": ["method=barlow", "views.locals=0", "head.batch_norm=false", "model.init=scaled"],
    "vicreg": ["method=vicreg", "views.locals=0", "head.batch_norm=false"],
}
HYBRID = ["model.stem=starter", "model.patch_size=8", "views.global_size=32", "views.local_size=16", "loss.koleo=0"]
STEMS = {  # the same, where the starter encoder's package is installed
    "frozen stem": ["method=dinov2", *HYBRID],
    "trained stem": ["method=dinov2", "optim.stem_lr=0.1", *HYBRID],
}
WHOLE = {  # the same for any number of processes, with the same number of micro-batches
    "koleo": ["method=dinov2", "loss.koleo=0.5"],
    "batch norm": ["method=dinov2", "loss.koleo=0", "head.batch_norm=true", "ibot_head.batch_norm=true"],
    "swav": ["method=swav"],  # with batch norm in its head
    "activations": ["method=dinov2", "run.checkpoint_activations=true"],
    "byol batch norm": ["method=byol", "views.locals=0"],
    "mocov2 batch norm": ["method=mocov2", "views.locals=0", "loss.queue=16", "head.batch_norm=true"],
    "barlow batch norm": ["method=barlow", "views.locals=0"],
}
COMMON = [
    f"optim.length={STEPS} steps",
    f"optim.batch_size={BATCH}",
    "optim.lr=3e-3",
    "optim.lr_scaling=none",
    "optim.warmup=0 steps",
    "masks.share=0.3",
]
COMMON += ["head.out=8", "predictor.hidden=16"]
COMMON += ["loss.freeze_prototypes=2 steps", "model.drop_path=0", "init.freeze_backbone=2 steps"]


def run(images: Path, words: list[str]) -> dict[str, torch.Tensor]:
    """Losses (steps, parts) and final parameters, gathered from all processes."""
    words = [word.replace("GIVEN", str(given_weights(images))) for word in words]
    cfg = load_config(None, fit_words([*TINY, *COMMON, f"data.path={images}", *words]))
    source = open_source(cfg.data.path)
    phase, device, method, optimizer = assemble(cfg, source)
    method.train()
    method.prepare(batches(source, cfg, 0, STEPS, 0, needs=needs_of(cfg)))
    losses = []
    share = parallel.rank(), parallel.world()
    for step, micro in enumerate(batches(source, cfg, 0, STEPS, 0, share=share, needs=needs_of(cfg))):
        views = [v.to(device) for v in micro]
        if phase.begins_epoch(step):
            method.begin_epoch(int(phase.epoch(step)))
        parts, _, norm = train_step(method, optimizer, views, phase(step), cfg.optim, autocast(device, None))
        means = mean_over_parts(parts)
        if not getattr(getattr(cfg, "loss", None), "koleo", 0):
            means.pop("koleo", None)  # it is still computed, within micro-batches
        losses.append([*means.values(), norm.item()])
    return {"losses": torch.tensor(losses)} | parallel.whole(method.state_dict())


def given_weights(images: Path) -> Path:
    """A run's folder, beside the images, with weights to start from."""
    folder = images.parent / "given"
    if not folder.exists():
        folder.mkdir()
        torch.manual_seed(2)
        save_encoder(make_backbone(load_config(None, TINY).model, 16), folder, {})
    return folder


def run_all(images: Path, cases: dict[str, list[str]], micro: int) -> dict[str, dict[str, torch.Tensor]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for such small tensors more are slower
    torch.set_default_dtype(torch.float64)
    try:
        return {name: run(images, [*words, f"run.micro_batch={micro}"]) for name, words in cases.items()}
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


def main(images: str, out: str, names: str, *more: str) -> None:
    cases = {name: [*words, *more] for name, words in (EXACT | WHOLE | STEMS).items() if name in names.split(",")}
    with parallel.processes(torch.device("cpu")):
        parts = BATCH // (2 * parallel.world())
        made = {micro: run_all(Path(images), cases, micro) for micro in (0, parts) if micro != 1}  # too few for KoLeo
        if parallel.rank() == 0:
            torch.save(made, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
