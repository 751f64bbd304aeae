"""The columns of `results.csv`, in their order: the contract between a run, a sweep's table and `tlmtl compare`.

Torch-free, so that `tlmtl compare` starts at once.
"""

# What the row is.
ROW = ["run_id", "config_hash", "group_id", "status", "error", "dataset", "task", "kind", "primary"]
# What was set. Rows that agree in all of these but the seed are repeats of one experiment.
SETTINGS = [
    "model", "source", "strategy", "tasks", "sharing", "weighting", "terms", "overrides", "seed",
    "labels_per_class", "label_fraction", "epochs", "batch_size", "optimizer", "lr", "weight_decay",
]  # fmt: skip
# Between SETTINGS and PLAN stand the metrics: `val/<metric>` then `test/<metric>`, as many as the tasks measure.
PLAN = ["device", "precision", "threads", "memory_format", "compiled", "engine", "fused_with"]
COSTS = [
    "steps", "examples_seen", "labels_seen", "train_seconds", "eval_seconds", "features_seconds", "source_seconds", "data_wait",
    "seconds_per_step", "peak_memory_mb", "parameters", "parameters_trained",
]  # fmt: skip
PROVENANCE = ["source_hash", "data_hash", "subset_hash", "baseline_id", "skipped", "tlmtl", "torch", "git_sha"]
PROVENANCE += ["chosen"]  # what validation chose within the run, of strategies that try several settings

# Columns that two identical runs may differ in: measured, not decided.
MEASURED = [
    "train_seconds", "eval_seconds", "features_seconds", "source_seconds", "data_wait", "seconds_per_step",
    "peak_memory_mb",
]  # fmt: skip

# The config key that a column of SETTINGS shows. What no column shows goes into `overrides`.
SHOWN = {
    "seed": "seed",
    "dataset.labels_per_class": "labels_per_class",
    "dataset.label_fraction": "label_fraction",
    "train.epochs": "epochs",
    "train.batch_size": "batch_size",
    "optimizer.lr": "lr",
    "optimizer.weight_decay": "weight_decay",
    "tasks": "tasks",
}


def ordered(names: list[str]) -> list[str]:
    """Every column of the contract, then those of `names` that it does not know; metrics (`val/...`, then `test/...`)
    stand between settings and plan."""
    metrics = []
    for split in ("val/", "test/"):  # the loss comes last: a task's first metric is its main one
        mine = [name for name in names if name.startswith(split)]
        metrics += sorted(mine, key=lambda name: name == f"{split}loss")
    known = [*ROW, *SETTINGS, *metrics, *PLAN, *COSTS, *PROVENANCE]
    return known + [name for name in names if name not in known]
