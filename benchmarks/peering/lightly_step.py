"""A DINOv2 step from lightly's parts (losses, heads, masks, transform, data set) and a ViT of timm, put together as its example does."""

import torch
from lightly.data import LightlyDataset
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
from lightly.models.utils import random_block_mask, update_drop_path_rate, update_momentum
from lightly.transforms.dino_transform import DINOTransform
from timm.models.vision_transformer import vit_small_patch14_dinov2
from torch import Tensor, nn
from turns import Turns


class Network(nn.Module):
    """A backbone and the head that class tokens and patches share."""

    def __init__(self, image_size: int, prototypes: int) -> None:
        super().__init__()
        vit = vit_small_patch14_dinov2(img_size=image_size, dynamic_img_size=True)
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.head = DINOProjectionHead(input_dim=384, output_dim=prototypes)


class Step:
    """Student, teacher, losses and optimizer."""

    def __init__(self, case: dict) -> None:
        self.student = Network(case["global_size"], case["prototypes"])
        self.teacher = Network(case["global_size"], case["prototypes"]).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        update_drop_path_rate(self.student.backbone.vit, drop_path_rate=case["drop_path"], mode="uniform")
        self.dino, self.ibot, self.koleo = DINOLoss(case["prototypes"]), IBOTPatchLoss(case["prototypes"]), KoLeoLoss()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-5, weight_decay=0.04)
        self.precision = torch.autocast("cpu", torch.bfloat16, enabled=case["precision"] == "bf16")

    def loss(self, views: list[Tensor]) -> Tensor:
        """The loss of 2 global and some local views, each (B, 3, S, S)."""
        student, teacher = self.student, self.teacher
        images, small = torch.cat(views[:2]), torch.cat(views[2:])
        blocks = random_block_mask(size=(len(images), *student.backbone.vit.patch_embed.grid_size))
        mask = nn.functional.pad(blocks.flatten(1), (1, 0))  # the class token is never masked
        with torch.no_grad():
            tokens = teacher.backbone.encode(images)
            target, patch_target = teacher.head(tokens[:, 0]), teacher.head(tokens[mask])
        tokens = student.backbone.encode(images, mask=mask)
        out = torch.cat([student.head(tokens[:, 0]), student.head(student.backbone.encode(small)[:, 0])])
        dino = self.dino(target.chunk(2), out.chunk(len(views)), teacher_temp=0.07)
        ibot = self.ibot(patch_target, student.head(tokens[mask]), mask=blocks, teacher_temp=0.07)
        return dino + ibot + 0.1 * sum(self.koleo(t) for t in tokens[:, 0].chunk(2))

    def __call__(self, views: list[Tensor]) -> float:
        with self.precision:
            loss = self.loss(views)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 3.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_momentum(self.student.backbone, self.teacher.backbone, m=0.992)
        update_momentum(self.student.head, self.teacher.head, m=0.992)
        return loss.item()


def main() -> None:
    turns = Turns()
    case = turns.case
    torch.manual_seed(0)
    transform = DINOTransform(
        global_crop_size=case["global_size"], global_crop_scale=(0.32, 1.0), local_crop_size=case["local_size"],
        local_crop_scale=(0.05, 0.32), n_local_views=case["locals"],
    )  # fmt: skip
    photos = LightlyDataset(case["photos"], transform=transform)
    loader = torch.utils.data.DataLoader(photos, batch_size=case["batch"], shuffle=True, drop_last=True)
    step = Step(case)
    turns.ready("lightly", "timm")
    while True:
        for views, *_ in loader:
            turns.loaded()
            turns.stepped(step(views))


if __name__ == "__main__":
    main()
