"""stable-pretraining's step: its DINOv2 module with its transforms, in the plainest loop around them.

The module has heads of its own for class tokens and patches, and runs the latter on every patch. The patch head keeps its default of
8,192 prototypes where the case has more.
"""

from pathlib import Path

import timm
import torch
from PIL import Image
from stable_pretraining.backbone import TeacherStudentWrapper
from stable_pretraining.data import transforms
from stable_pretraining.methods.dinov2 import DINOv2
from torch.utils.data import DataLoader, Dataset
from turns import Turns

PATCH_PROTOTYPES = 8192
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def view(size: int, scale: tuple[float, float], blur: float) -> transforms.Compose:
    return transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop(size, scale=scale),
        transforms.RandomHorizontalFlip(0.5),
        transforms.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
        transforms.RandomGrayscale(0.2),
        transforms.PILGaussianBlur(p=blur),
        transforms.ToImage(mean=MEAN, std=STD),
    )


class Photos(Dataset):
    """The crops of each image file below a folder: two global ones, then the local ones."""

    def __init__(self, case: dict) -> None:
        self.files = sorted(p for p in Path(case["photos"]).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        large = [view(case["global_size"], (0.32, 1.0), blur) for blur in (1.0, 0.1)]
        self.views = [*large, *[view(case["local_size"], (0.05, 0.32), 0.5)] * case["locals"]]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, n: int) -> list[torch.Tensor]:
        image = Image.open(self.files[n]).convert("RGB")
        return [make({"image": image})["image"] for make in self.views]


def main() -> None:
    turns = Turns()
    case = turns.case
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_small_patch14_dinov2", num_classes=0, img_size=case["global_size"], dynamic_img_size=True,
        drop_path_rate=case["drop_path"],
    )  # fmt: skip
    method = DINOv2(
        vit, n_cls_prototypes=case["prototypes"], n_patch_prototypes=min(case["prototypes"], PATCH_PROTOTYPES),
        image_size=case["global_size"],
    ).train()  # fmt: skip
    teachers = [part for part in method.modules() if isinstance(part, TeacherStudentWrapper)]
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-5, weight_decay=0.04)
    precision = torch.autocast("cpu", torch.bfloat16, enabled=case["precision"] == "bf16")
    loader = DataLoader(Photos(case), batch_size=case["batch"], shuffle=True, drop_last=True)
    turns.ready("stable-pretraining", "timm")
    while True:
        for views in loader:
            turns.loaded()
            with precision:
                loss = method(global_views=views[:2], local_views=views[2:]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(method.parameters(), 3.0)
            optimizer.step()
            optimizer.zero_grad()
            for part in teachers:
                part.update_teacher()
            turns.stepped(loss.item())


if __name__ == "__main__":
    main()
