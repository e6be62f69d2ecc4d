"""docs/results/peers.md, made from peers.json."""

from typing import Any

from peering.quality import OURS, accuracy, points_more
from peering.rounds import times_ours

GB = 1e9
NAMES = {"wall": "wall-clock time", "cpu": "CPU time", "peak_memory": "peak memory", "load_cpu": "CPU time of loading"}
STEP = """\
A step is the computation from a finished batch to updated weights: the forward passes of student
and teacher, the loss, the gradient, clipping, the optimizer, and the teacher's update. Reading
images and making their crops is measured apart ("loading"), in the same process without workers.
The projects take turns, one step each, in processes of their own. Figures are medians of {rounds} steps
after {warm_up} others, with the smallest and largest in brackets. "Times dinolab's" is the median of the
ratios within each turn. CPU seconds are those of all threads, and count the waiting of threads for
each other. Memory is the resident memory of the whole process, with its libraries.

- dinolab: the recipe `dinov2_vits14`, by the functions that a run calls. It lets oneDNN compute
  products in fp32, and has glibc keep freed memory, as in a run.
- lightly-train: its command `pretrain` with `dinov2/vits14-notpretrained` and the method `dinov2`.
  The time is taken in its trainer, from the hook at the batch's start to the end of the hook that
  updates the teacher. The trainer's own work between steps counts as loading.
- lightly: it has losses, heads, masks and crops, and no trainer. The step is put together as its
  DINOv2 example does, around timm's ViT-S/14.
- stable-pretraining: its module `DINOv2` with timm's ViT-S/14, in a plain loop. It differs most: a
  second head with at most 8,192 prototypes for patches, which computes every patch, Sinkhorn-Knopp
  instead of centring, random masks, and no KoLeo.

The first three share one head for class tokens and patches, centring, iBOT's masks of blocks and
KoLeo. Stochastic depth is {drop_path} in all. lightly and stable-pretraining compute dropped branches, and
multiply them by zero. Crops have the same sizes; their colour distortions differ a little.

solo-learn was left out: its last release on PyPI (1.0.2) requires torch 1.9.1, which Python 3.11
cannot install."""
QUALITY = """\
Every row has {minutes:g} CPU-minutes for its training steps, without worker processes. Short trainings of 3
and 9 steps measure the cost of a step first, so that each schedule runs to its end. The last column
is what the whole process used, with starting, writing and the features. The exported backbone
computes features of {train:,} training and {test:,} test images at {size} pixels, and scikit-learn's {k}-NN
with cosine similarity judges them. 95 % intervals over the test images are in brackets. Each row is
a single training with seed {seed}.

- dinolab: the recipe `small_10k` as it is, in fp32: 4 blocks of width 128, patches of 16, 2 crops of
  96 pixels and 4 of 48.
- lightly-train dino, dino adamw, dinov2: the same network and sizes of crops, with LightlyTrain's
  batches of 128. Its counts of steps at the start have the share of the training that they have of
  125,000 steps. All else is LightlyTrain's choice. Its `dino` suits prototypes, temperature and
  momentum to the number of images; its `dinov2` does not, and has 65,536 prototypes.
- lightly-train dinov2 1024: with as many prototypes as `dino` gets for this number of images.
- lightly-train dino resnet18: the example of its documentation, with nothing changed.
- untrained: the network of `small_10k` with its initial weights.

LightlyTrain's `dinov2` with the smallest network that it lists, a ViT-S/14, was left out, since a
step has 128 images of 224 pixels with 8 smaller crops each: 16 times the batch in the table of steps."""


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(found: dict[str, Any]) -> str:
    """The whole page, in Markdown, from the content of peers.json."""
    parts = ["# Result: dinolab beside other projects, on a CPU"]
    if steps := found.get("steps"):
        parts += ["## A training step of DINOv2", command(steps), case_words(steps["case"]), machine(steps)]
        for precision, rows in steps["rows"].items():
            parts += [f"### {precision}", step_table(rows, steps["case"]), *verdicts(rows)]
        parts += ["### What was measured", STEP.format(**steps["case"])]
    if quality := found.get("quality"):
        parts += ["## Accuracy after equal CPU time", command(quality), machine(quality)]
        parts += [quality_table(quality["rows"]), *quality_verdicts(quality["rows"]), QUALITY.format(**quality["case"])]
    return "\n\n".join(parts) + "\n"


def command(part: dict[str, Any]) -> str:
    return f"    {part['command']}"


def case_words(case: dict[str, Any]) -> str:
    return (
        f"ViT-S/14, {case['batch']} images, 2 x {case['global_size']} + {case['locals']} x {case['local_size']} pixels, "
        f"{case['prototypes']:,} prototypes."
    )


def machine(part: dict[str, Any]) -> str:
    env = part["environment"]
    return f"{env['cpu']}, {env['cores']} cores, Python {env['python']}, PyTorch {env['packages']['torch']}, {env['time'][:10]}."


def step_table(rows: list[dict[str, Any]], case: dict[str, Any]) -> str:
    ours = next((row for row in rows if row["name"] == "dinolab" and "steps" in row), None)
    header = ["", "s", "times dinolab's", "CPU s", "times dinolab's", "images/s", "peak memory, GB", "loading, CPU s"]
    lines = []
    for row in rows:
        if "note" in row:
            lines.append([row["name"], f"failed: {row['note']}", *[""] * 6])
            continue
        ratios = [spread(*times_ours(row, ours, key)) if ours and row is not ours else "" for key in ("wall", "cpu")]
        walls = [step["wall"] for step in row["steps"]]
        memory = "" if row["peak_memory"] is None else f"{row['peak_memory'] / GB:.2f}"
        versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
        lines.append([
            versions, spread(row["wall"], min(walls), max(walls)), ratios[0], f"{row['cpu']:.2f}", ratios[1],
            f"{case['batch'] / row['wall']:.2f}", memory, f"{row['load_cpu']:.3f}",
        ])  # fmt: skip
    return table(header, lines)


def spread(middle: float, low: float, high: float) -> str:
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """For each figure a sentence on who is better than dinolab, and one where no other project is."""
    measured = {row["name"]: row for row in rows if "steps" in row}
    ours = measured.pop("dinolab", None)
    if not ours or not measured:
        return ["Nothing can be compared."]
    words = []
    for key, name in NAMES.items():
        if ours[key] is None:
            continue
        better = {other: row[key] / ours[key] for other, row in measured.items() if row[key] < ours[key]}
        listed = ", ".join(f"**{other}** ({ratio:.2f} of dinolab's)" for other, ratio in better.items())
        words.append(f"- {name}: {'better than dinolab is ' + listed if better else 'none is better than dinolab'}.")
    return ["\n".join(words)]


def quality_table(rows: dict[str, dict[str, Any]]) -> str:
    ours = rows.get(OURS, {}).get("right")
    lines = []
    for name, row in rows.items():
        if "note" in row:
            lines.append([name, f"failed: {row['note']}", *[""] * 4])
            continue
        value, half = accuracy(row["right"])
        apart = points_more(row["right"], ours) if ours and name != OURS else None
        lines.append([
            name, f"{value:.1f} ({value - half:.1f} to {value + half:.1f})",
            f"{apart[0]:+.1f} ({apart[0] - apart[1]:+.1f} to {apart[0] + apart[1]:+.1f})" if apart else "",
            str(row["steps"]), f"{row['cpu_per_step']:.2f}" if row["steps"] else "", f"{row['cpu'] / 60:.1f}" if row["steps"] else "",
        ])  # fmt: skip
    return table(["", "k-NN, %", "points above dinolab", "steps", "CPU s a step", "CPU min of the process"], lines)


def quality_verdicts(rows: dict[str, dict[str, Any]]) -> list[str]:
    ours = rows.get(OURS, {}).get("right")
    if not ours:
        return ["Nothing can be compared."]
    apart = {name: points_more(row["right"], ours) for name, row in rows.items() if "right" in row and name != OURS}
    better = [name for name, (points, half) in apart.items() if points > half]
    equal = [name for name, (points, half) in apart.items() if abs(points) <= half]
    words = [f"Better than dinolab: {', '.join(f'**{name}**' for name in better) or 'none'}."]
    return [
        " ".join(words + ([f"The test images cannot tell apart from dinolab: {', '.join(equal)}."] if equal else []))
    ]
