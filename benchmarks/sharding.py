"""Measure what sharding costs on one device, where it gains nothing: a step with plain parameters and with fully_shard (FSDP2).

    python benchmarks/sharding.py dinov2_vits14 --out docs/results/sharding.json
    python benchmarks/sharding.py dinov2_vits16 model.size=large optim.batch_size=32 --out docs/results/sharding_large.json
    python benchmarks/sharding.py demo --device cpu --seconds 5                    (a trial without a GPU)

`dinolab bench step CONFIG model.size=large` measures memory with recomputed activations, run.checkpoint_activations=true.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch.distributed as dist

from dinolab import parallel
from dinolab.bench.common import measure, memory_in_use, setting
from dinolab.errors import UserError
from dinolab.machine import environment
from dinolab.precision import autocast
from dinolab.recipes import load_config
from dinolab.runs.build import build_method
from dinolab.runs.noise import random_batch, values
from dinolab.training.loop import train_step
from dinolab.training.optim import make_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("options", nargs="*", metavar="key=value")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_intermixed_args()
    cfg = load_config(args.config, args.options)
    how = setting(args.device, args.precision, args.seconds)
    before = memory_in_use(how.device)
    views, s, precision = random_batch(cfg, how.device), values(cfg), autocast(how.device, how.autocast)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    store = dist.HashStore()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if how.device.type == "cuda" else "gloo", store=store, rank=0, world_size=1
    )

    def steps(sharded: bool):
        method = build_method(cfg, how.device).train()
        if sharded:
            parallel.shard(method.networks, "full", how.device, how.autocast)
        optimizer = make_optimizer(method.student, cfg.optim)
        return lambda: train_step(method, optimizer, views, s, cfg.optim, precision)

    timings = measure(
        {name: steps(name == "fully_shard") for name in ("plain", "fully_shard")}, how.device, how.seconds, before
    )
    failures = [f"{name}: {t.failure}" for name, t in timings.items() if t.failure]
    if failures:
        sys.exit("; ".join(failures))
    rows = {name: timing.row(cfg.optim.batch_size) for name, timing in timings.items()}
    cost = 1 / timings["fully_shard"].times_as_fast_as(timings["plain"]) - 1
    result = {"cost_of_sharding": cost, **rows, "batch": cfg.optim.batch_size, "setting": how.words}
    result |= {"command": " ".join(sys.argv), "environment": environment()}
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
