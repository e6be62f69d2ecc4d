"""The panels of the figures that DINO and the methods built on it write into metrics.jsonl."""

from dinolab.panels import HEALTH, LOSS, SCHEDULES, Panel

DINO_PANELS = (
    Panel(
        LOSS,
        "loss",
        {"loss": "sum", "dino": "DINO", "ibot": "iBOT", "koleo": "KoLeo"},
        level="log_k",
        level_label="log K",
    ),
    Panel(HEALTH, "teacher: entropy, and KL from student", {"teacher_entropy": "entropy", "kl": "KL"}, zero=True),
    Panel(HEALTH, "effective rank of the features", {"effective_rank": "rank"}, zero=True),
    Panel(HEALTH, "prototypes used", {"prototypes_used": "prototypes"}, zero=True, percent=True),
    Panel(HEALTH, "norm of the centre", {"centre_norm": "norm"}, zero=True),
    Panel(SCHEDULES, "teacher's EMA momentum", {"momentum": "momentum"}),
    Panel(SCHEDULES, "teacher temperature", {"teacher_temperature": "temperature"}),
)
