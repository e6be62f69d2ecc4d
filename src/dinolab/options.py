"""The options that every training has. A method's own stand in its file, an evaluation's in its own.

How files and words set them: config.py.
"""

import dataclasses
from dataclasses import dataclass

from dinolab.fields import AUTO, duration, option, section

EXPLORER_PORT = 8651  # of the page of `dinolab explore`, where links in reports lead
CONVNETS = ("resnet18", "resnet50", "starter")  # sizes that are convolutional networks; models/convnet.py has them


@dataclass
class Columns:
    """How a CSV, a text file, shards or a Hugging Face dataset are read."""

    images: str = option("", "folder of the images that a CSV or text file names (empty: looked for)")
    filename_column: str = option("filename", "column of a CSV with the file names")
    image_column: str = option("", "column of a dataset with the images (empty: the first that holds any)")
    label_column: str = option("label", "column with the labels, or key in the .json files of shards")

    def chosen(self) -> dict[str, str]:
        """Those of these options that do not have their default, by name."""
        usual = Columns()
        return {name: getattr(self, name) for name in COLUMNS if getattr(self, name) != getattr(usual, name)}


COLUMNS = tuple(f.name for f in dataclasses.fields(Columns))


@dataclass
class DataPath:
    path: str = option(
        "",
        "images to train on: a folder (recursive), a text file of paths, a CSV, tar shards or a Hugging Face dataset: docs/data.md",
    )


@dataclass
class Data(Columns, DataPath):  # the fields of the last base class come first
    max_broken: float = option(0.01, "share of unreadable images above which the run stops", 0, 1)


@dataclass
class Views:
    global_size: int = option(224, "side of the two global crops, in pixels", 8, 4096)
    global_scale: list[float] = option(
        [0.4, 1.0], "share of the image's area a global crop covers: [least, most]", 0, 1
    )
    locals: int = option(8, "number of local crops (0 for none)", 0, 64)
    local_size: int = option(96, "side of the local crops, in pixels", 8, 4096)
    local_scale: list[float] = option([0.05, 0.4], "share of the image's area a local crop covers: [least, most]", 0, 1)
    aspect: list[float] = option([0.75, 4 / 3], "width over height of a crop, before resizing: [least, most]", 0.1, 10)
    flip: float = option(0.5, "probability of a horizontal flip", 0, 1)
    jitter: float = option(0.8, "probability of colour jitter", 0, 1)
    jitter_strength: list[float] = option(
        [0.4, 0.4, 0.2, 0.1], "colour jitter's strength: [brightness, contrast, saturation, hue]", 0, 1
    )
    grey: float = option(0.2, "probability of turning a crop grey", 0, 1)
    blur: list[float] = option([1.0, 0.1, 0.5], "probability of blur: [first global, second global, locals]", 0, 1)
    solarize: float = option(0.2, "probability of solarisation, on the second global crop", 0, 1)
    randaugment: float = option(0.0, "RandAugment's strength, on the CPU alone (arXiv 1909.13719; DeiT: 9)", 0, 10)
    erase: float = option(0.0, "probability of random erasing, on the CPU alone (arXiv 1708.04896; DeiT: 0.25)", 0, 1)

    @property
    def distorted(self) -> bool:
        """Whether crops get what only the CPU can do to them: RandAugment or random erasing."""
        return self.randaugment > 0 or self.erase > 0


@dataclass
class Model:
    size: str = option(
        "small",
        "sets a ViT's dim, depth and heads; resnet18, resnet50 and starter (EfficientNet-Lite0) are no ViTs and take no other option of "
        "model. (they need the timm extra)",
        choices=("tiny", "small", "base", "large", "giant", *CONVNETS),
    )
    dim: int = option(0, "width of the tokens (0: by size)", 0, 8192)
    depth: int = option(0, "number of blocks (0: by size)", 0, 200)
    heads: int = option(0, "attention heads (0: by size)", 0, 128)
    patch_size: int = option(16, "side of a patch, in pixels", 1, 128)
    stem: str = option(
        "", "pretrained network whose first stages embed the patches: starter, timm:NAME or timm:NAME=FILE"
    )
    registers: int = option(0, "number of register tokens (arXiv 2309.16588)", 0, 64)
    layerscale: float = option(0.0, "initial value of LayerScale (0: none)", 0, 1)
    ffn: str = option("mlp", "feed-forward network", choices=("mlp", "swiglu"))
    drop_path: float = option(0.0, "stochastic depth: share of the crops that each residual branch drops", 0, 0.95)
    drop_path_rates: str = option(
        "uniform",
        "uniform: drop_path in all blocks, as DINOv2; rising: in a line from 0 in the first block to drop_path in the last, as DINO; "
        "rounded: uniform, but always the same whole number of crops, as in runs of earlier versions",
        choices=("uniform", "rising", "rounded"),
    )
    init: str = option(
        "published",
        "initial weights: as published (linear layers and positions: deviation 0.02), or scaled by each layer's width with sine positions: "
        "learns sooner in small runs",
        choices=("published", "scaled"),
    )
    antialias: bool = option(True, "filter position embeddings when they are shrunk to a smaller grid")
    interpolate_offset: float = option(
        0.0,
        "added to the grid's size, in patches, when it is resized; 0.1 for DINO's weights and for DINOv2's without registers",
        0,
        0.9,
    )

    @property
    def convolutional(self) -> bool:
        """Whether it is a convolutional network, with no class token and no mask token, and not a ViT."""
        return self.size in CONVNETS


@dataclass
class Head:
    hidden: int = option(2048, "width of the hidden layers", 1, 65536)
    bottleneck: int = option(256, "width before the prototypes", 1, 65536)
    layers: int = option(3, "layers of the MLP", 1, 10)
    prototypes: int = option(65536, "number of prototypes, K", 2, 1 << 24)
    batch_norm: bool = option(False, "batch norm after each hidden layer: helps small runs off the flat start")
    train_norms: bool = option(
        False,
        "train the length of each prototype too (DINOv2, and DINO with norm_last_layer=false); false: all lengths stay 1",
    )
    predictor: bool = option(
        False,
        "a further MLP of two layers between the student's head and the prototypes, which the teacher does not have",
    )


@dataclass
class Optim:
    length: str = duration("100 epochs", "length of the whole run; an epoch is one pass over the data")
    batch_size: int = option(64, "images in a step, over all its micro-batches", 1, 1 << 20)
    lr: float = option(5e-4, "peak learning rate before scaling", 0, 10)
    lr_scaling: str = option(
        "linear",
        "learning rate by batch size: lr x batch/256, lr x sqrt(batch/1024), or lr",
        choices=("linear", "sqrt", "none"),
    )
    min_lr: float = option(1e-6, "learning rate at the end of the run (cosine)", 0, 10)
    warmup: str = duration("10 epochs", "linear warm-up of the learning rate")
    weight_decay: float = option(0.04, "weight decay at the start (none on biases, norms and LayerScale)", 0, 10)
    weight_decay_end: float = option(0.4, "weight decay at the end of the run (cosine)", 0, 10)
    name: str = option(
        "adamw",
        "AdamW; SGD, as is usual for ResNets; or LARS, for large batches (arXiv 1708.03888)",
        choices=("adamw", "sgd", "lars"),
    )
    betas: list[float] = option([0.9, 0.999], "AdamW's betas; the first is the momentum of SGD and LARS", 0, 0.99999)
    trust: float = option(1e-3, "LARS's trust coefficient: a step's norm over the parameter's, at lr=1", 0, 1)
    clip: float = option(3.0, "largest norm of the gradient (0: no clipping)", 0, 1e6)
    clip_by: str = option(
        "whole",
        "what is clipped by its own norm: the whole gradient; that of each network (backbone, heads), as DINOv2; that of each "
        "parameter tensor, as DINO",
        choices=("whole", "network", "parameter"),
    )
    layer_decay: float = option(1.0, "learning rate's factor from each block to the one below", 0.01, 1)
    patch_embed_lr: float = option(1.0, "learning rate's further factor for the patch embedding", 0, 1)
    stem_lr: float = option(0.0, "learning rate's further factor for model.stem (0: it stays as it is)", 0, 1)
    bias_lr: float = option(1.0, "learning rate's further factor for biases and norms, as in Barlow Twins", 0, 1)
    nan: str = option(
        "stop", "a step whose gradient is not finite stops the run, or is skipped", choices=("stop", "skip")
    )


@dataclass
class Init:
    weights: str = option(
        "",
        "weights the backbone starts from: a run's folder, an official .pth file, hf:NAME; for convolutional networks starter or "
        "timm:NAME=FILE, too",
    )
    freeze_backbone: str = duration("1 epochs", "how long the new heads are trained alone first (with init.weights)")
    freeze_norms: bool = option(
        True, "hold the batch norm of a convolutional network fixed, statistics and scales (with init.weights)"
    )
    pull: float = option(
        0.0,
        "weight of a pull towards the given weights: 1 - cosine of the class features of the global crops with theirs (0: none)",
        0,
        1000,
    )
    lora: int = option(
        0,
        "rank of low-rank adapters that are trained in place of a ViT's matrices (arXiv 2106.09685; 0: none)",
        0,
        1024,
    )


@dataclass
class Highres:
    """A last phase with larger crops, after optim.length (DINOv2, section 4)."""

    length: str = duration("0 steps", "length of a last phase with larger crops, after optim.length; 0 steps for none")
    global_size: int = option(
        0, "side of its global crops (0: twice views.global_size; for patches of 14, 37/16 of it)", 0, 4096
    )
    local_size: int = option(0, "side of its local crops (0: views.local_size)", 0, 4096)
    batch_size: int = option(0, "its images in a step (0: optim.batch_size)", 0, 1 << 20)
    lr: float = option(0.0, "its peak learning rate before scaling (0: a tenth of optim.lr)", 0, 10)
    warmup: str = duration("10%", "its linear warm-up of the learning rate")
    micro_batch: int = option(0, "its run.micro_batch (0: the same)", 0, 1 << 20, named={"auto": AUTO})


@dataclass
class Eval:
    train: str = option(
        "", "labelled images that are the k-NN's reference set (empty: four fifths of data.path, if it has labels)"
    )
    test: str = option("", "labelled images that the k-NN is tested on (empty: the other fifth)")
    every: str = duration("10%", "how often k-NN accuracy is measured during training; 0 steps for never")
    max_images: int = option(10000, "images taken from each, at most, while training", 2, 1 << 30)
    k: int = option(20, "nearest neighbours that the k-NN classifies by", 1, 10000)
    size: int = option(0, "side of the evaluation images, in pixels (0: views.global_size)", 0, 4096)
    stop_after: int = option(
        2,
        "with init.weights: the run stops after so many k-NN accuracies in a row clearly below that of step 0 (0: never)",
        0,
        1000,
    )


@dataclass
class Run:
    """Options that change speed or comfort. They change results by no more than rounding, with two exceptions: micro_batch also changes
    the neighbours of KoLeo, the statistics of batch norm and the draws of stochastic depth, and device_views the interpolation."""

    dir: str = option("", "the run's folder (empty: runs/ and the config's name)")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: str = option(
        "auto", "bf16 autocast or fp32; auto: bf16 on hardware that is fast in it", choices=("auto", "fp32", "bf16")
    )
    attention: str = option(
        "auto",
        "attention kernel; auto: mixed on CPUs, else sdpa, which takes FlashAttention's kernel where there is one",
        choices=("auto", "flash", "sdpa", "math", "mixed"),
    )
    compile: bool = option(
        False,
        "compile the transformer blocks (TorchInductor): takes a minute or two; dinolab bench step measures what it gains",
    )
    workers: int = option(-1, "processes that load images (-1: by the number of cores; 0: none)", -1, 1024)
    device_views: str = option(
        "auto",
        "make crops on the device: workers only decode; auto: on a GPU, once the loop is seen waiting for data",
        choices=("auto", "always", "never"),
    )
    micro_batch: int = option(
        0,
        "images in one forward and backward of a device; divides its share of optim.batch_size (0: all of that; auto: the most that fit "
        "into the device's memory, found at the start of the run)",
        0,
        1 << 20,
        named={"auto": AUTO},
    )
    checkpoint_activations: bool = option(
        False, "keep only what enters each block and compute the rest again: less memory, a third more time"
    )
    sharding: str = option(
        "full",
        "with several processes, parameters are split over all of them, over those of each machine, or not",
        choices=("full", "hybrid", "none"),
    )
    log_every: int = option(10, "steps between lines of metrics.jsonl", 1, 1 << 20)
    save_every: str = duration("5%", "how often a checkpoint is written; the last step always is")
    keep: int = option(2, "newest checkpoints that are kept", 1, 10000)
    keep_every: str = duration(
        "0 steps", "of the checkpoints written, those at multiples of this are kept for good; 0 steps for none"
    )
    tensorboard: bool = option(False, "also write TensorBoard events (needs the tensorboard extra)")
    wandb: str = option("", "also log to this Weights & Biases project (needs the wandb extra)")
    profile: int = option(0, "steps whose time is broken down, in profile/ of the run's folder (0: none)", 0, 1000)
    pictures: bool = option(True, "draw curves, attention and PCA maps at the end")


@dataclass
class Config:
    """The options that every training has. A method's own stand beside them: `recipes.schema` adds them."""

    method: str = option("", "method to train with")
    seed: int = option(0, "seed of every random draw of the run", 0, (1 << 63) - 1)
    data: Data = section(Data, "images to train on")
    views: Views = section(Views, "crops and their augmentation")
    model: Model = section(Model, "the backbone")
    optim: Optim = section(Optim, "length, batch, learning rate, weight decay")
    init: Init = section(Init, "weights to start from")
    highres: Highres = section(Highres, "a last phase with larger crops")
    eval: Eval = section(Eval, "k-NN accuracy while training")
    run: Run = section(Run, "folder, device, speed, log, checkpoints")
