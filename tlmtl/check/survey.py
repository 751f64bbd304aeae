"""What a data set holds, found out in one reading. Nothing stops at the first problem: all are collected."""

import dataclasses
import inspect
from dataclasses import dataclass, field

import numpy as np
from omegaconf import DictConfig

from tlmtl import files
from tlmtl.check import copies, labels, pictures
from tlmtl.check.finding import Finding, some
from tlmtl.check.labels import Labels
from tlmtl.config import build, check_dataset, find_target
from tlmtl.data import duplicates
from tlmtl.data.augment import augmentation
from tlmtl.data.dataset import labelled
from tlmtl.data.examples import SPLITS, Examples
from tlmtl.data.labels import columns_of, select_tasks, with_reconstruction
from tlmtl.data.read import plain, shared_settings
from tlmtl.data.splits import divide_copies
from tlmtl.errors import ConfigError
from tlmtl.ground import encoder_of
from tlmtl.preprocess import Preprocess


@dataclass
class Survey:
    """What was found.

    Arguments:
        splits: positions by split; all images stand in `train` where they could not be divided.
        divided: whether they could be.
        kept: the training examples that `labels_per_class` or `label_fraction` keep.
        tasks: the labels of every task that the data has, counted.
    """

    examples: Examples
    splits: dict[str, np.ndarray]
    divided: bool
    kept: np.ndarray
    tasks: list[Labels]
    preprocess: Preprocess
    findings: list[Finding] = field(default_factory=list)

    @property
    def refused(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.refused]


def survey(cfg: DictConfig) -> Survey:
    """Look at `cfg.dataset` as `tlmtl train` would.

    Raises ConfigError for a wrong config, and for data that cannot be read at all.
    """
    common, _ = check_dataset(with_reconstruction(cfg.dataset), "dataset")
    duplicates.check_setting(common.on_duplicate)
    augmentation(common.augment)
    chosen = select_tasks(cfg.tasks, common.tasks, list(common.default_tasks))
    examples, said = _read(cfg)
    preprocess = encoder_of(cfg, examples.images.channels).preprocess
    splits, divided, undivided = _divide(examples, common)
    said += undivided
    try:
        kept = labelled(examples, common, splits["train"])
    except ConfigError as error:
        kept = splits["train"]
        said.append(Finding(str(error), refused=True))
    counted = dict(splits)
    if len(kept) < len(splits["train"]):
        counted = {"train": splits["train"], "kept": kept, **splits}
    tasks = []
    for name, column in columns_of(common).items():
        settings = common.tasks[name]
        if column not in examples.columns:
            text = (
                f"Task '{name}' reads the column '{column}', which is not there. Found: {', '.join(examples.columns)}."
            )
            advice = f"Set dataset.tasks.{name}.target."
            if examples.no_labels:
                if name not in chosen:
                    continue
                text, advice = examples.no_labels, "tasks=[reconstruction] needs no labels."
            said.append(Finding(text, advice=advice, refused=name in chosen))
            continue
        values, classes = examples.columns[column], examples.classes.get(column)
        tasks.append(labels.count(str(name), settings.kind, name in chosen, values, classes, counted))
        said += labels.findings(tasks[-1], settings, examples, splits, kept)
    said += copies.findings(examples, splits, tasks, common.on_duplicate)
    said += pictures.findings(examples, preprocess)
    return Survey(examples, splits, divided, kept, tasks, preprocess, said)


def _read(cfg: DictConfig) -> tuple[Examples, list[Finding]]:
    """The examples that can be read, and what is to be said of the others."""
    common, given = check_dataset(cfg.dataset, "dataset")
    family, allow = plain(given), list(cfg.allow)
    supplied = {**shared_settings(common), "cache": files.cache_folder(cfg.output.cache)}
    lenient = dict(family)
    if "on_bad_image" in inspect.signature(find_target(family, "dataset", "dataset", allow)).parameters:
        lenient["on_bad_image"] = "skip"
    try:
        examples: Examples = build(lenient, "dataset", allow=allow, **supplied)
    except ConfigError:
        build(family, "dataset", allow=allow, **supplied)  # if bad images are the reason, this says so and names them
        raise
    if not examples.bad:
        return examples, []
    refused = family.get("on_bad_image", "error") != "skip"
    names = [f"{name}: {reason}" for name, reason in examples.bad]
    text = f"{len(names):,} of {some(len(examples) + len(names), 'image')} cannot be read."
    if refused:
        advice = "Remove or replace them, or leave them out with dataset.on_bad_image=skip."
    else:
        advice = "They are left out (dataset.on_bad_image=skip)."
    return examples, [Finding(text, names, advice, refused)]


def _divide(examples: Examples, common: DictConfig) -> tuple[dict[str, np.ndarray], bool, list[Finding]]:
    """The splits, whether they could be made as the config says, and what stood in the way."""
    said = []
    own = {name: np.flatnonzero(examples.split == name) for name in SPLITS} if examples.split is not None else None
    if own is not None and examples.groups is not None and (finding := copies.torn(examples.groups, own)):
        said.append(finding)
        examples = dataclasses.replace(examples, groups=None)
    fractions = common.val_fraction, common.test_fraction
    try:
        return divide_copies(examples, *fractions, common.split_seed, common.fold, common.on_duplicate), True, said
    except ConfigError as error:
        said.append(Finding(str(error), refused=True))
    if own is not None and all(map(len, own.values())):
        return own, True, said
    whole = {name: np.zeros(0, dtype=np.int64) for name in SPLITS}
    return {**whole, **(own or {"train": np.arange(len(examples))})}, own is not None, said
