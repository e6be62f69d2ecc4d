"""The options of distillation, and which of them contradict each other."""

from dataclasses import dataclass

from dinolab.errors import UserError
from dinolab.fields import option, section
from dinolab.methods import dinov2
from dinolab.methods.directions import Regression
from dinolab.methods.momentum import Ema
from dinolab.methods.whole import Whole
from dinolab.options import Head


@dataclass
class Loss(dinov2.Weighted):
    features: float = option(0.0, "weight of the regression of the teacher's class token, by cosine", 0, 100)
    patches: float = option(0.0, "weight of the regression of the teacher's patches, by cosine", 0, 100)


@dataclass
class Options:
    teacher: str = option(
        "", "frozen encoder to learn from: a run's folder, an official .pth file, hf:NAME, timm:NAME or starter"
    )
    teacher_views: str = option(
        "crops",
        "crops: the teacher sees the student's global crops, in every step; whole: it sees each image as a whole, once, and this is "
        "the target of all crops of the image",
        choices=("crops", "whole"),
    )
    teacher_size: int = option(
        0,
        "side in pixels of the images that the teacher sees (0: crops as they are, whole images at the size of its training); "
        "loss.ibot with crops sets it by itself",
        0,
        4096,
    )
    whole: Whole = section(Whole, "the teacher's view of an image, with teacher_views=whole")
    head: Head = section(Head, "projection head and prototypes of the class token")
    ibot_head: Head = section(Head, "projection head and prototypes of the patches")
    regression: Regression = section(Regression, "heads of loss.features and loss.patches")
    loss: Loss = section(Loss, "targets, temperatures, weights of the parts of the loss")
    ema: Ema = section(Ema, "momentum of the student's average, which is the run's product")

    @property
    def wants_patches(self) -> bool:
        return bool(self.loss.ibot or self.loss.patches)

    def check(self) -> None:
        """Raises UserError where options contradict each other."""
        loss, whole = self.loss, self.whole
        if not (loss.dino or loss.ibot or loss.features or loss.patches):
            raise UserError(
                "loss.dino, loss.ibot, loss.features and loss.patches are all 0: nothing is learned from the teacher"
            )
        if self.teacher_views != "whole" and whole != Whole():
            raise UserError(
                f"the options whole.* have no effect with teacher_views={self.teacher_views}; set teacher_views=whole"
            )
        if whole.keep == "no" and not self.teacher_size:
            raise UserError(
                "whole.keep=no needs teacher_size, for example 224: images are resized before the teacher is opened"
            )
        if self.teacher_size and loss.ibot and self.teacher_views != "whole":
            raise UserError(
                f"teacher_size={self.teacher_size} has no effect with loss.ibot, which resizes crops until the grids agree; "
                "leave it out, or take loss.patches"
            )
