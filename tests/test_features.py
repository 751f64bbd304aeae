"""A frozen backbone is run once for each image; the numbers are those of a run that runs it in every step."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from test_resume import StopAt, parameters

import tlmtl
from tlmtl import job, pretrain
from tlmtl.columns import MEASURED

QUICK = ("dataset.labels_per_class=4", "train.epochs=4", "progress=false")
QUICK += ("train.batch_size=20", "train.evaluate_every=2st", "train.checkpoint_every=3st")
RANDOM = ("strategy.init=random", "source=none")  # frozen all the same: what a head makes of random features
TENTH = ("dataset.labels_per_class=null", "dataset.label_fraction=0.1")
CLOSE = 1e-5  # what two ways of batching the same images may differ by, relative


def compose(*words: str):
    short = () if "source=none" in words else ("source.train.epochs=1",)
    return pretrain.with_source(tlmtl.compose([*QUICK, *short, *words]))


def run(folder: Path, *words: str) -> tuple[Path, dict[str, str]]:
    """The folder of a run and its first row."""
    cfg = compose(*QUICK, *words)
    job.execute(cfg, folder, folder.name)
    with (folder / "results.csv").open() as file:
        return folder, next(csv.DictReader(file))


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def agree(one: Path, other: Path, close: float = CLOSE) -> None:
    """Everything that two runs leave agrees, but for what was measured and which way it was."""
    way = {*MEASURED, "engine", "config_hash", "group_id", "baseline_id", "overrides", "run_id", "git_sha", "error"}
    for mine, theirs in zip(
        pd.read_csv(one / "results.csv").to_dict("records"),
        pd.read_csv(other / "results.csv").to_dict("records"),
        strict=True,
    ):
        for key in mine.keys() - way:
            if isinstance(mine[key], float):
                assert mine[key] == pytest.approx(theirs[key], rel=close, abs=close, nan_ok=True), key
            else:
                assert mine[key] == theirs[key], key
    a, b = pd.read_csv(one / "history.csv"), pd.read_csv(other / "history.csv")
    assert a.drop(columns="value").equals(b.drop(columns="value"))
    np.testing.assert_allclose(a["value"], b["value"], rtol=close, atol=close)
    a, b = pd.read_parquet(one / "predictions.parquet"), pd.read_parquet(other / "predictions.parquet")
    assert a.drop(columns="output").equals(b.drop(columns="output"))
    np.testing.assert_allclose(np.concatenate(a["output"]), np.concatenate(b["output"]), rtol=0, atol=10 * close)
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=10 * close, msg=name)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def both(tmp_path: Path, *words: str) -> tuple[Path, Path]:
    """The same run, with its features kept and without."""
    kept, row = run(tmp_path / "kept", *words, "features.cache=always")
    plain, other = run(tmp_path / "plain", *words, "features.cache=never")
    assert row["engine"] == "torch" and other["engine"] == "" and float(row["features_seconds"]) > 0
    assert other["features_seconds"] == ""
    agree(kept, plain)
    return kept, plain


FAMILIES = {
    "small_cnn": ("model=small_cnn",),
    "torchvision": ("model=torchvision", "model.name=resnet18", "model.image_size=32", *RANDOM),
    "mobilenet": ("model=torchvision", "model.name=mobilenet_v3_small", "model.image_size=32", *RANDOM),
    "timm": ("model=efficientnet_lite0", "model.image_size=32", *RANDOM),
    "transformer": ("model=timm", "model.name=vit_tiny_patch16_224", "model.image_size=32", *RANDOM),
}


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in ("small_cnn", "torchvision") else pytest.mark.slow) for name in FAMILIES],
)
def test_kept_features_give_the_numbers_of_the_plain_loop(tmp_path, family):
    few = ("dataset.val_fraction=0.05", "dataset.test_fraction=0.05", "train.epochs=2", "train.evaluate_every=50%")
    both(tmp_path, *FAMILIES[family], *few)


@pytest.mark.parametrize(
    "words",
    [
        ("dataset=two_digits", "model.pool=2", "tasks=[left,right,sum]", *TENTH),
        ("dataset=two_digits", "tasks=[left,sum]", "sharing=none", *TENTH),
        ("dataset=two_digits", "tasks=[left,sum]", "sharing=mmoe", *TENTH),
        pytest.param(
            ("dataset=joint", "dataset.parts=[digits,mnist5k]", "tasks=all", "dataset.labels_per_class=null", *RANDOM),
            marks=pytest.mark.slow,
        ),
        ("head.hidden=[16]", "head.dropout=0.3", "train.clip=0.5", "train.ema=0.9", "train.accumulate=2"),
        ("train.sampler=balanced", "train.class_weights=balanced", "train.early_stopping=3st", "train.evaluate_every=1st"),
    ],
    ids=["tasks", "separate", "mmoe", "joint", "head", "sampler"],
)  # fmt: skip
def test_whatever_else_is_set(tmp_path, words):
    both(tmp_path, *words)


def test_in_half_the_precision(tmp_path):
    _, row = run(tmp_path / "one", "hardware.precision=bf16-true")
    assert row["engine"] == "torch" and row["precision"] == "bf16-true" and float(row["val/accuracy"]) > 0


RULES = "[{params: 'backbone.*block1.*', frozen: true}, {params: 'backbone.*block2.*', from: 0.5}, {params: '*'}]"


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=staged",),
        ("strategy=staged", "train.ema=0.9", "train.early_stopping=2st", "train.evaluate_every=1st"),
        ("strategy=finetune_all", f"strategy.rules={RULES}"),
        (
            "strategy=finetune_all", f"strategy.rules={RULES}", "dataset=two_digits", "tasks=[left,sum]", "sharing=none",
            *TENTH,
        ),
    ],
    ids=["staged", "staged-ema", "lower", "lower-separate"],
)  # fmt: skip
def test_a_phase_and_a_lower_part_that_are_frozen(tmp_path, words):
    both(tmp_path, *words)


def test_a_second_run_and_other_subsets_compute_only_what_is_new(tmp_path):
    cache = f"output.cache={tmp_path / 'cache'}"
    first, _ = run(tmp_path / "first", cache, *RANDOM, "seed=5")
    assert "images computed once by torch and kept" in log(first)
    again, row = run(tmp_path / "again", cache, *RANDOM, "seed=5", "optimizer.lr=0.1")
    assert "computed once" not in log(again) and float(row["features_seconds"]) > 0
    more, _ = run(tmp_path / "more", cache, *RANDOM, "seed=5", "dataset.labels_per_class=8")
    said = [line for line in log(more).splitlines() if "computed once" in line]
    assert len(said) == 1 and "Features of 40 images" in said[0]  # 80 are trained on, 40 of them are new
    other, _ = run(tmp_path / "other", cache, *RANDOM, "seed=6")  # other random parameters
    assert "computed once" in log(other)


def test_random_augmentation_is_refused_or_gone_round(tmp_path, main):
    refused(
        main("train", "features.cache=always", "dataset.augment=digits"),
        "'features.cache=always'", "dataset.augment=none", "features.views=4",
    )  # fmt: skip
    folder, row = run(tmp_path / "plain", "dataset.augment=digits", *RANDOM)
    assert row["engine"] == "" and "Two ways out: dataset.augment=none, or features.views=4" in log(folder)
    views, row = run(tmp_path / "views", "dataset.augment=digits", "features.views=3", *RANDOM)
    assert row["engine"] == "torch"
    again, _ = run(tmp_path / "again", "dataset.augment=digits", "features.views=3", *RANDOM)
    assert parameters(views) == parameters(again)
    one, _ = run(tmp_path / "one", "features.views=3", *RANDOM)  # nothing is random: one view is all there is
    assert parameters(one) != parameters(views)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("features.cache=sometimes",), ("'features.cache'", "auto, always, never")),
        (("features.views=0",), ("'features.views'", "1 or more")),
        (("features.memory_mb=-1",), ("'features.memory_mb'",)),
        (("features.cache=always", "strategy=finetune_all"), ("no part of the backbone is frozen",)),
        (("features.cache=always", "term=supcon"), ("the term supcon",)),
        (
            ("features.cache=always", "dataset=two_digits", "tasks=[left,right]", "sharing=mtan"),
            ("between the stages",),
        ),
    ],
)
def test_settings_that_will_not_do(main, words, said):
    refused(main("train", *words), *said)


def test_features_read_from_files_give_the_same_bytes(tmp_path):
    memory, _ = run(tmp_path / "memory")
    mapped, _ = run(tmp_path / "mapped", "features.memory_mb=0")
    assert parameters(memory) == parameters(mapped)
    assert (memory / "history.csv").read_bytes() == (mapped / "history.csv").read_bytes()


@pytest.mark.parametrize("step", [3, 9])
@pytest.mark.parametrize("words", [(), ("strategy=staged",)], ids=["probe", "staged"])
def test_a_run_that_is_gone_on_with_gives_the_same_bytes(tmp_path, step, words):
    words = (*words, "train.checkpoint_every=2st", "train.evaluate_every=1st")
    whole, _ = run(tmp_path / "whole", *words)
    cfg = compose(*QUICK, *words)
    with pytest.raises(KeyboardInterrupt):
        job.execute(cfg, tmp_path / "begun", "begun", StopAt(min(step, 7)))
    job.execute(cfg, tmp_path / "begun", "begun")
    assert "Going on after step" in log(tmp_path / "begun")
    assert parameters(whole) == parameters(tmp_path / "begun")
    assert (whole / "history.csv").read_bytes() == (tmp_path / "begun" / "history.csv").read_bytes()


def test_a_checkpoint_holds_no_frozen_backbone(tmp_path):
    cfg = compose(*QUICK, "train.checkpoint_every=1st", "train.evaluate_every=1st")
    with pytest.raises(KeyboardInterrupt):
        job.execute(cfg, tmp_path / "begun", "begun", StopAt(3))
    size = max(path.stat().st_size for path in (tmp_path / "begun" / "checkpoint").glob("*.pt"))
    shutil.rmtree(tmp_path / "begun")
    assert size < 60_000  # heads, their optimizer's state and random states; the backbone alone takes more


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["linear_probe", "staged"]),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from(["adamw", "sgd"]),
    st.integers(0, 3),
)
def test_kept_is_plain_whatever_is_set(tmp_path_factory, strategy, labels, batch, dropout, optimizer, seed):
    both(
        tmp_path_factory.mktemp("any"), f"strategy={strategy}", f"dataset.labels_per_class={labels}", f"seed={seed}",
        f"train.batch_size={batch}", f"head.dropout={dropout}", f"optimizer={optimizer}", "train.epochs=3",
    )  # fmt: skip


def test_in_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = tlmtl.run(compose(*QUICK))
    assert result.rows.iloc[0]["engine"] == "torch" and result.model is not None
