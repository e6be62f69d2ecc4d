"""dinolab export."""

from dataclasses import dataclass
from pathlib import Path

from dinolab.cli.grammar import Positional, Verb
from dinolab.errors import say
from dinolab.fields import option


@dataclass
class Export:
    to: str = option("", "library or format", choices=("safetensors", "huggingface", "timm", "onnx"), required=True)
    out: str = option("", "folder to create (empty: NAME-TO, in the current folder)")
    layer: str = option(
        "", "also export the linear layer of this evaluation's folder, for onnx and huggingface (empty: none)"
    )


def run_export(model: str, own: Export) -> int:
    from dinolab.export import export

    folder, check = export(model, own.to, Path(own.out) if own.out else None, own.layer or None)
    say(f"{folder}: {check}")
    return 0


EXPORT = Verb(
    "write weights for Hugging Face, timm or ONNX, or as safetensors",
    run_export,
    about="Write a model for another library, load it there, compare its features with dinolab's, and add a model card.",
    positionals=(Positional("RUN_OR_MODEL", "a run's folder, an official .pth file, or hf:NAME"),),
    options=(Export,),
    examples=("export runs/photos to=timm", "export runs/photos to=onnx layer=runs/photos/eval/linear"),
)
