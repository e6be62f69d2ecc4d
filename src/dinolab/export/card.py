"""The model card that goes along with exported weights."""

import json
from pathlib import Path
from typing import Any

import yaml

from dinolab.models.encoder import MEAN, STD, Encoder
from dinolab.models.vit import SwiGLU

INPUT = f"RGB, floats in [0, 1], less mean {MEAN}, over deviation {STD}"
USAGE = {  # {name} stands for the folder
    "safetensors": """\
import dinolab

model = dinolab.load("{name}")
features = model(images)  # uint8 or floats in [0, 1], (B, 3, H, W); features.cls, .registers, .patches
""",
    "huggingface": f"""\
from transformers import AutoModel

model = AutoModel.from_pretrained("{{name}}")
tokens = model(images).last_hidden_state  # class token, registers, patches
# images: {INPUT}
""",
    "timm": f"""\
import timm

model = timm.create_model("local-dir:{{name}}", pretrained=True)
tokens = model.forward_features(images)  # class token, registers, patches
# images: {INPUT}; any multiple of the patch size
""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("{name}/model.onnx")
cls, *registers, patches = session.run(None, {{"images": images}})
# images: RGB, float32 in [0, 1], (B, 3, H, W), any B, H and W; mean and deviation are taken out inside
""",
}


def model_card(encoder: Encoder, source: str | Path, name: str, to: str, check: str) -> str:
    """Architecture, recipe, data, results and how to load it, in Markdown. Paths of the user's machine are left out."""
    front = "---\nlibrary_name: transformers\n---\n" if to == "huggingface" else ""
    recipe = {k: v for k, v in encoder.info.get("config", {}).items() if k not in ("data", "eval", "run")}
    parts = [
        f"{front}# {name}\n\nA vision transformer trained without labels, written by `dinolab export --to {to}`.",
        f"```python\n{USAGE[to].format(name=name)}```",
        table(facts(encoder, source)),
        f"Checked when written: {check}.",
    ]
    if recipe:
        parts.append(f"## Recipe\n\n```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```")
    return "\n\n".join(parts) + "\n"


def facts(encoder: Encoder, source: str | Path) -> dict[str, Any]:
    vit, info = encoder.vit, encoder.info
    first: Any = vit.blocks[0]
    rows: dict[str, Any] = {
        "width, blocks, heads": f"{vit.dim}, {len(vit.blocks)}, {first.attn.heads}",
        "feed-forward": "SwiGLU" if isinstance(first.mlp, SwiGLU) else "MLP",
        "patch": f"{vit.patch_size} pixels",
        "registers": vit.cfg.registers,
        "image size of the position embeddings": f"{vit.image_size} pixels",
        "parameters": f"{sum(p.numel() for p in vit.parameters()):,}",
    }
    if "step" in info:
        rows |= {
            "method": info.get("method"),
            "training images": f"{info.get('images'):,}",
            "steps": f"{info['step']:,}",
        }
    else:
        rows["weights from"] = source if str(source).startswith("hf:") else Path(source).name
    return rows | last_result(Path(source))


def last_result(run: Path) -> dict[str, str]:
    """The last k-NN accuracy in the run's metrics.jsonl, if there is one."""
    metrics = (run if run.is_dir() else run.parent) / "metrics.jsonl"
    if not metrics.is_file():
        return {}
    lines = [line for line in metrics.read_text().splitlines() if '"knn"' in line and line.endswith("}")]
    if not lines:
        return {}
    last = json.loads(lines[-1])
    return {"k-NN accuracy": f"{last['knn']:.1%} of {last['knn_test_images']:,} images, at step {last['step']:,}"}


def table(rows: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
