"""The fixed top level of a run's config, as dataclasses. What a member of a group may hold is its `_target_`'s signature."""

from dataclasses import dataclass, field
from typing import Any

RECONSTRUCTION = "reconstruction"  # a kind of task, and the name of the one that every data set has


@dataclass
class Strategy:
    """What is initialised from the source, which parameters train, how fast, from when."""

    init: str = "source"  # source | random
    lr: float = 1e-3
    rules: list[dict[str, Any]] = field(default_factory=list)
    tasks: Any = "default"
    terms: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] | None = None  # finds the heads of a frozen backbone in place of the training loop


@dataclass
class Task:
    """One task of a data set. `target` names the column of labels; the first metric is the main one. Auxiliary tasks
    (`primary: false`) train and are reported, and have no part in choosing the best epoch."""

    kind: str = "classification"
    target: str | None = None  # the task's own name when not given
    metrics: list[str] = field(default_factory=list)  # the kind's own when empty
    primary: bool | None = None  # true when not given, but for a reconstruction beside other tasks
    weight: float = 1.0
    loss: str | None = None  # of a regression: mse | l1 | huber; the kind's own when not given
    label_smoothing: float = 0.0  # of a classification, in training alone: 0 up to, not including, 1
    huber_delta: float = 1.0  # with loss=huber: where it turns into a line, in standard deviations of the targets


@dataclass
class Dataset:
    """What every data set has, whatever its family; the family's own keywords stand beside these."""

    tasks: dict[str, Task] = field(default_factory=dict)
    default_tasks: list[str] = field(default_factory=list)
    val_fraction: float = 0.2
    test_fraction: float = 0.25
    split_seed: int = 0
    subset_seed: int = 0
    labels_per_class: int | None = None
    label_fraction: float | None = None
    fold: str | None = None  # K/N: the K-th of N folds is the test split
    on_duplicate: str = "error"  # exact copies across train and test: error | together | allow
    augment: str = "none"


@dataclass
class Head:
    """What heads look like, and how new ones start: `near_zero` (normal, standard deviation 0.01) or `default` (torch's
    own). A reconstruction's is a decoder, which takes none of this."""

    init: str = "near_zero"
    dropout: float = 0.0
    hidden: list[int] = field(default_factory=list)  # sizes of hidden layers; a linear head when empty


@dataclass
class Train:
    """The budget and the loop's settings. Durations: `10` or `10ep` (epochs), `500st`, `20000ex` (examples), `5%`."""

    epochs: Any = 60
    batch_size: int = 32
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    class_weights: str | None = None  # balanced | effective
    sampler: str = "shuffle"  # shuffle | balanced
    early_stopping: Any = None
    evaluate_every: Any = "5%"
    checkpoint_every: Any = "5%"


@dataclass
class Hardware:
    """How a run is executed. `threads: auto` is one for small models and all cores for the others.

    What is `auto` of precision, memory format and compile follows a rule (32-true, what the model is fastest in, false).
    With `deterministic: false` and `tune: auto`, a run of more than a minute takes what a few timed steps showed to be faster.
    """

    device: str = "auto"
    precision: str = "32-true"  # 32-true | bf16-mixed | bf16-true | auto
    threads: Any = "auto"
    deterministic: bool = True
    memory_format: str = "auto"  # contiguous | channels_last | auto
    compile: Any = False  # true | false | auto
    tune: Any = "auto"  # auto | off
    workers: int | None = None
    images_mb: int = 2048  # resized images up to so many MB are kept in memory; more are streamed from the files


@dataclass
class Features:
    """Of a frozen backbone, which are computed once. `views`: with random augmentation, so many augmented views of each
    training image are kept, and training draws from them."""

    cache: str = "auto"  # auto | always | never
    engine: str = "auto"  # auto | torch | onnxruntime | openvino
    views: int | None = None
    memory_mb: int = 2048  # features up to so many MB are held in memory; more are read from files as they are used


@dataclass
class Evaluate:
    """Further test sets for the trained model. `also` lists names of data sets, files or folders; composed, it is their
    configs by name."""

    also: Any = None


@dataclass
class Output:
    root: str = "outputs"
    cache: str | None = None
    cache_mb: int | None = 20000  # features and decoded images that are kept there; the least recently used go first
    keep_checkpoint: bool = False


@dataclass
class Sweep:
    """How the runs of a sweep are taken care of; none of it can change a result. `sweep/limits.py` checks the values."""

    name: str | None = None
    rerun: Any = "failed"  # failed | all | none
    retries: Any = 0
    time_limit: Any = None  # such as 90s, 30m, 2h
    memory_limit_mb: Any = None
    dry_run: Any = False
    fuse: Any = "auto"  # auto | never: whether runs that differ in their heads alone are trained together


@dataclass
class Tune:
    """Equal budgets: each method of a sweep gets `trials` settings from one `space`, and is run again with `seeds`."""

    trials: int | None = None
    space: dict[str, Any] = field(default_factory=dict)
    sampler: Any = "random"  # random: the same settings for every method; tpe
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])


@dataclass
class Composed:
    """How the config came about: filled in by `composition.py`, never part of a run's identity."""

    choices: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)


@dataclass
class Config:
    model: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    strategy: Strategy = field(default_factory=Strategy)
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    weighting: dict[str, Any] = field(default_factory=dict)
    sharing: dict[str, Any] = field(default_factory=dict)
    term: dict[str, Any] = field(default_factory=dict)
    fusion: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=lambda: {"_target_": "tlmtl.logger.base.no_tracker"})
    head: Head = field(default_factory=Head)
    train: Train = field(default_factory=Train)
    hardware: Hardware = field(default_factory=Hardware)
    features: Features = field(default_factory=Features)
    tasks: Any = "default"
    seed: int = 0
    evaluate: Evaluate = field(default_factory=Evaluate)
    output: Output = field(default_factory=Output)
    sweep: Sweep = field(default_factory=Sweep)
    tune: Tune = field(default_factory=Tune)
    resume: str | None = None
    progress: bool = True
    allow: list[str] = field(default_factory=list)
    composed: Composed = field(default_factory=Composed)
