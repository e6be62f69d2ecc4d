"""Exports our ViT as safetensors, for Hugging Face, timm or ONNX, with a model card."""

from dinolab.export.targets import TARGETS as TARGETS
from dinolab.export.write import export as export
