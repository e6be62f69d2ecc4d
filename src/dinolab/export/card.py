"""The model card that goes along with exported weights."""

from pathlib import Path
from typing import Any

import yaml

from dinolab.evals.layer import LinearLayer
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.layers import SwiGLU
from dinolab.panels import KNN
from dinolab.pixels import RGB, Pixels
from dinolab.rundir import RunFolder
from dinolab.weights.load import is_product

USAGE = {  # {name} stands for the folder
    "safetensors": """\
import dinolab

model = dinolab.load("{name}")
features = model(images)  # uint8 or floats in [0, 1], (B, {channels}, H, W); features.cls, .registers, .patches
""",
    "huggingface": """\
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("{name}")
model = AutoModel.from_pretrained("{name}")
inputs = processor(images, input_data_format="channels_last", return_tensors="pt")
tokens = model(**inputs).last_hidden_state  # class token, registers, patches
# images: {colours}, arrays of whole numbers (H, W, {channels}); the processor resizes and normalises them
""",
    "timm": """\
import timm

model = timm.create_model("local-dir:{name}", pretrained=True)
tokens = model.forward_features(images)  # class token, registers, patches
# images: {normalised}; any multiple of the patch size
""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("{name}/model.onnx")
cls, *others = session.run(None, {{"images": images}})  # registers, if there are any, and patches
# images: {colours}, float32 in [0, 1], (B, {channels}, H, W), any B, H and W; the model normalises them
""",
}
CLASSIFIES = {  # where the model has a layer
    "huggingface": """
from transformers import AutoModelForImageClassification

classifier = AutoModelForImageClassification.from_pretrained("{name}")
labels = [classifier.config.id2label[i] for i in classifier(**inputs).logits.argmax(1).tolist()]
""",
    "onnx": """
import json

classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
(logits,) = session.run(["logits"], {{"images": images}})
labels = [classes[i] for i in logits.argmax(1)]
""",
}


def model_card(
    encoder: BackboneEncoder, source: str | Path, name: str, to: str, check: str, layer: LinearLayer | None = None
) -> str:
    """Architecture, recipe, data, results and how to load the model, in Markdown. Paths of the user's machine are left out."""
    front = "---\nlibrary_name: transformers\n---\n" if to == "huggingface" else ""
    recipe = {k: v for k, v in encoder.info.get("config", {}).items() if k not in ("data", "eval", "run")}
    parts = [
        f"{front}# {name}\n\nA vision transformer trained without labels. Written by dinolab's `export`, for {to}.",
        f"```python\n{usage(name, to, encoder.pixels)}{CLASSIFIES[to].format(name=name) if layer else ''}```",
        table(facts(encoder, source) | (layer_facts(layer) if layer else {})),
        f"Checked when written: {check}.",
    ]
    if recipe:
        parts.append(f"## Recipe\n\n```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```")
    return "\n\n".join(parts) + "\n"


def usage(name: str, to: str, pixels: Pixels) -> str:
    """Code that loads the model and computes features."""
    colours = "RGB" if pixels.channels == RGB.channels else f"{pixels.channels} channels"
    normalised = f"{colours}, floats in [0, 1], minus mean {pixels.mean}, divided by deviation {pixels.deviation}"
    return USAGE[to].format(name=name, colours=colours, channels=pixels.channels, normalised=normalised)


def facts(encoder: BackboneEncoder, source: str | Path) -> dict[str, Any]:
    """The rows of the card's table."""
    vit, info = encoder.vit, encoder.info
    first: Any = vit.blocks[0]
    rows: dict[str, Any] = {
        "width, blocks, heads": f"{vit.dim}, {len(vit.blocks)}, {first.attn.heads}",
        "feed-forward": "SwiGLU" if isinstance(first.mlp, SwiGLU) else "MLP",
        "patch": f"{vit.patch_size} pixels",
        "registers": vit.cfg.registers,
        "image size of the position embeddings": f"{vit.image_size} pixels",
        "positions at other image sizes": (
            f"{'filtered' if vit.cfg.antialias else 'not filtered'}, offset {vit.cfg.interpolate_offset:g}"
        ),
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
    path = Path(source)
    return rows | last_result(RunFolder(path.parent if is_product(path) else path))


def layer_facts(layer: LinearLayer) -> dict[str, str]:
    """The rows of the table on a layer."""
    height, width = layer.size
    return {"classes": f"{len(layer.classes):,}", "images that its layer was trained on": f"{height} x {width} pixels"}


def last_result(run: RunFolder) -> dict[str, str]:
    """The row with the last accuracy that was measured during training; none where there is no such figure."""
    (figure,) = KNN.series
    rows = [row for row in run.read_metrics()[0] if figure in row]
    if not rows:
        return {}
    last = rows[-1]
    return {KNN.title: f"{last[figure]:.1%} of {last[f'{figure}_test_images']:,} images, at step {last['step']:,}"}


def table(rows: dict[str, Any]) -> str:
    """Rows of names and values as a table in Markdown."""
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
