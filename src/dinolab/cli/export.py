"""dinolab export."""

import argparse
from pathlib import Path
from typing import Any


def add(verbs: Any) -> None:
    export = verbs.add_parser(
        "export",
        help="weights for Hugging Face, timm or ONNX, or as safetensors",
        description="Writes a model for another library, reloads it, compares its features with ours, and adds a model card.",
    )
    export.add_argument("source", metavar="RUN_OR_MODEL", help="a run's folder, an official .pth file, or hf:NAME")
    targets = ("safetensors", "huggingface", "timm", "onnx")
    export.add_argument("--to", required=True, choices=targets, help="the library that is to load it")
    export.add_argument("--out", type=Path, default=None, metavar="DIR", help="a new folder (default: NAME-TO, here)")
    export.set_defaults(verb=run_export)


def run_export(args: argparse.Namespace) -> int:
    from dinolab.export import export

    folder, check = export(args.source, args.to, args.out)
    print(f"{folder}: {check}")
    return 0
