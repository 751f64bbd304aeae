"""What a user can get wrong: told in a message with an exit code, never a traceback, and nothing half written is left."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import TLMTL, nothing_written, refused, write
from PIL import Image

from tlmtl import results

SHORT = ("train.epochs=1", "progress=false")
FOLDER = ("dataset=folder", "dataset.root=images")


def images(top: Path, classes=("cat", "dog"), each: int = 6) -> Path:
    random = np.random.default_rng(0)
    for name in classes:
        (top / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(random.integers(0, 255, (20, 20), dtype=np.uint8)).save(top / name / f"{i}.png")
    return top


# Commands, keys, types, members


@pytest.mark.parametrize(
    ("args", "words"),
    {
        "unknown command": ("trian", ["'trian'", "Did you mean 'train'?", "compare, report, list"]),
        "unknown group to list": ("list strateg", ["'strateg'", "Did you mean 'strategy'?"]),
        "unknown flag": ("train --nonsense", ["--nonsense", "tlmtl train --help"]),
        "unknown short flag": ("train -z", ["-z", "tlmtl train --help"]),
        "a flag without its value": ("train --cfg", ["--cfg", "expected one argument"]),
        "a flag with a wrong value": ("train --cfg all_of_it", ["'all_of_it'", "job"]),
        "flags that exclude each other": ("train --run --cfg job", ["--run, --cfg"]),
        "resolve alone": ("train --resolve", ["--cfg job --resolve"]),
        "a folder of configs that is not there": ("train --config-dir nope", ["--config-dir", "nope"]),
        "another main config": ("train --config-path nope", ["--config-dir"]),
        "compare nothing there": ("compare nowhere", ["nowhere", "outputs/runs"]),
        "unknown key": ("train train.epoch=3", ["'train.epoch'", "Did you mean 'train.epochs'?", "--cfg job"]),
        "unknown top key": ("train stratgy=x", ["'stratgy'", "Did you mean 'strategy'?"]),
        "key in the wrong place": ("train labels_per_class=3", ["Did you mean 'dataset.labels_per_class'?"]),
        "unknown key of a group": ("train model.widht=3", ["'model.widht'", "Did you mean 'model.width'?"]),
        "unknown key of a chosen member": ("train model=timm model.nam=x", ["Did you mean 'model.name'?"]),
        "keyword that the preset leaves out": ("train optimizer.amsgrad=true", ["+optimizer.amsgrad=VALUE"]),
        "added key": ("train +epoch=9", ["'epoch'", "Did you mean 'train.epochs'?"]),
        "added key of a section": ("train +train.epoch=9", ["'train.epoch'", "Did you mean 'train.epochs'?"]),
        "added key of a member": ("train +model.widht=3", ["'model.widht'", "Did you mean 'model.width'?"]),
        "key of a term not chosen": ("train term.l2_sp.alpha=1", ["term=[l2_sp] term.l2_sp.alpha=VALUE"]),
        "wrong type": ("train seed=abc", ["'seed'", "'abc'", "Integer"]),
        "no value": ("train seed=", ["'seed'", "Integer"]),
        "negative seed": ("train seed=-1", ["'seed'", "0 or more", "-1"]),
        "wrong type in a section": ("train train.batch_size=x", ["'train.batch_size'", "'x'"]),
        "wrong type of a keyword": ("train model.width=abc", ["'model.width'", "'abc'", "Integer"]),
        "wrong type for torch": ("train optimizer.lr=fast", ["'optimizer.lr'", "'fast'", "Float"]),
        "null for torch": ("train optimizer.lr=null", ["'optimizer.lr'", "null", "AdamW"]),
        "wrong type of a list": ("train strategy.rules=x", ["'strategy.rules'", "list"]),
        "wrong type in a list": ("train strategy.rules=[3]", ["'strategy.rules'", "int"]),
        "no duration": ("train train.epochs=many", ["'train.epochs'", "10ep", "'many'"]),
        "no equals sign": ("train seed", ["'seed'", "key=value"]),
        "unbalanced bracket": ("train seed=[1", ["'[1'", "key=value"]),
        "missing root": ("train dataset=folder", ["'dataset.root' has no value", "dataset.root=VALUE"]),
        "missing name": ("train model=timm", ["'model.name' has no value", "model.name=VALUE"]),
        "missing path": ("train source=run", ["'source.path' has no value", "source.path=VALUE"]),
        "unknown member": (
            "train strategy=linear_prob",
            ["no strategy 'linear_prob'", "Did you mean 'linear_probe'?", "finetune_all", "tlmtl list strategy"],
        ),
        "unknown member of a sweep": ("train -m strategy=finetune_all,linear_prob", ["Did you mean 'linear_probe'?"]),
        "unknown member in a list": (
            "train term=[l2sp]",
            ["no term 'l2sp'", "Did you mean 'l2_sp'?", "distill_features"],
        ),
        "unknown experiment": ("train +experiment=dem", ["Did you mean 'demo'?", "two_digits"]),
        "unknown model of a family": (
            "train model=timm model.name=resnet19",
            ["'resnet19'", "Did you mean 'resnet18'?"],
        ),
        "unknown device": ("train hardware.device=tpu", ["'hardware.device'", "auto, cpu, gpu, mps", "'tpu'"]),
        "unknown task": ("train tasks=digits", ["'digits'", "Did you mean 'digit'?", "parity"]),
        "no source": ("train source=none", ["source=none", "strategy=from_scratch"]),
        "nothing to resume": ("train resume=nope", ["'resume'", "nope"]),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_command_or_config_is_told_before_anything_is_written(main, tmp_path, monkeypatch, args, words):
    monkeypatch.setenv("TLMTL_CACHE", str(tmp_path / "cache"))
    refused(main(*args.split()), *words)
    nothing_written(tmp_path)
    assert not (tmp_path / "cache").exists()  # no source was trained for it either


@pytest.mark.parametrize(
    ("package", "command", "install"),
    [
        ("sklearn", "strategy=from_scratch", "pip install scikit-learn"),
        ("mlxtend", "source.seed=5", "pip install mlxtend"),
        ("timm", "model=timm model.name=resnet18 strategy=from_scratch", "pip install timm"),
        ("torchvision", "model=resnet18 strategy=from_scratch", "pip install torchvision"),
    ],
)
def test_a_package_that_is_not_installed_is_named_before_anything_starts(
    main, tmp_path, monkeypatch, package, command, install
):
    from tlmtl import errors
    from tlmtl.data import read

    read._examples.cache_clear()
    there = errors.find_spec
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == package else there(name))
    refused(main("train", *command.split(), *SHORT), f"'{package}', which is not installed", install)
    nothing_written(tmp_path)


def test_compare_without_a_path(main):
    said = main("compare")
    assert said.code == 2 and "PATH" in said.err and "Traceback" not in said.all


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("strategy/mine.yaml", "defaults: [finetune_all]\nlrr: 1e-3\n", ["'strategy.lrr'", "'strategy.lr'"]),
        (
            "strategy/mine.yaml",
            "defaults: [finetune_al]\n",
            ["no strategy 'finetune_al'", "Did you mean 'finetune_all'?"],
        ),
        ("strategy/mine.yaml", "lr: 1e-3\nrules: [{parms: '*'}]\n", ["strategy.rules[0]", "'params'"]),
        (
            "model/mine.yaml",
            "_target_: tlmtl.models.small_cnn.small_cnn\nwidht: 16\n",
            ["'model.widht'", "'model.width'"],
        ),
        ("model/mine.yaml", "width: 16\n", ["'model'", "_target_"]),
        ("model/mine.yaml", "_target_: 3\n", ["'model'", "_target_"]),
        ("model/mine.yaml", "width: [1\n", ["conf/model/mine.yaml", "line 2"]),
        ("model/mine.yaml", "- a\n", ["'model'"]),
    ],
)
def test_a_wrong_preset_in_conf(main, tmp_path, path, text, words):
    write(tmp_path / "conf" / path, text)
    refused(main("train", f"{path.split('/')[0]}=mine"), *words)
    nothing_written(tmp_path)


def test_a_value_that_torch_refuses(main, tmp_path):
    refused(main("train", "optimizer.lr=-1"), "optimizer", "-1")
    nothing_written(tmp_path)


# Rules, data


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("[{params: nothing.*},{params: '*'}]", ["'nothing.*'", "matches no parameter", "backbone.block1"]),
        ("[{params: '*'},{params: 'heads.*'}]", ["'heads.*'", "earlier rules"]),
        ("[{params: 'heads.*'}]", ["backbone.block1.0.weight", '{params: "*"}']),
        ("[{params: '*', lr_scal: 2}]", ["strategy.rules[0].lr_scal", "lr_scale"]),
        ("[{params: '*', frozen: true}]", ["Nothing trains"]),
        ("[{params: '*', from: 7}]", ["from", "7"]),
    ],
)
def test_rules_that_do_not_fit_the_model(main, tmp_path, rules, words):
    refused(main("train", f"strategy.rules={rules}"), *words)
    nothing_written(tmp_path)


def one_image(top: Path) -> None:
    for path in sorted((images(top) / "cat").iterdir())[1:]:
        path.unlink()


def truncated(top: Path) -> None:
    path = images(top) / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:60])


def no_image(top: Path) -> None:
    write(images(top) / "cat" / "notes.txt", "hello")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda top: None, ["'dataset.root'", "nothing at images"]),
        (lambda top: top.write_text(""), ["'dataset.root'", "a file at images"]),
        (lambda top: top.mkdir(), ["images/<class>/*", "none"]),
        (lambda top: images(top, classes=("cat",)), ["two classes", "cat"]),
        (one_image, ["Class 'cat' has 1 example", "at least 3"]),
        (truncated, ["1 of 12", "images/cat/0.png", "dataset.on_bad_image=skip"]),
        (no_image, ["1 of 13", "images/cat/notes.txt", "dataset.on_bad_image=skip"]),
    ],
    ids=["nothing there", "a file", "empty", "one class", "a class of one image", "truncated", "no image"],
)
def test_a_folder_of_images_that_will_not_do(main, tmp_path, make, words):
    make(tmp_path / "images")
    refused(main("train", *FOLDER), *words)
    nothing_written(tmp_path)


def test_skipped_images_are_counted(main, tmp_path):
    truncated(tmp_path / "images")
    assert main("train", *FOLDER, "dataset.on_bad_image=skip", *SHORT).code == 0
    (row,) = results.read_rows(tmp_path / "outputs" / "runs" / "latest" / "results.csv")
    assert row["skipped"] == "1" and row["status"] == "done"


def test_more_labels_than_there_are(main, tmp_path):
    refused(
        main("train", "dataset.labels_per_class=1000"), "'dataset.labels_per_class'", "1000", "98", "Choose 1 to 95"
    )
    refused(main("train", "dataset.label_fraction=0.5"), "labels_per_class", "label_fraction", "=null")
    nothing_written(tmp_path)


# Sources


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    subprocess.run([TLMTL, "train", "strategy=from_scratch", *SHORT], cwd=folder, check=True, capture_output=True)
    return (folder / "outputs" / "runs" / "latest").resolve()


def _unfinished(run: Path) -> None:
    write(run / "run.json", json.dumps(json.loads((run / "run.json").read_text()) | {"status": "failed"}))


def _cut(run: Path) -> None:
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, ["no run.json", "source.path"]),
        (_unfinished, ["not finished", "failed"]),
        (lambda run: (run / "model.safetensors").unlink(), ["no model.safetensors"]),
        (_cut, ["model.safetensors is broken"]),
        (lambda run: write(run / "model.safetensors", "garbage"), ["model.safetensors is broken"]),
        (lambda run: write(run / "run.json", "{"), ["run.json is broken"]),
        (lambda run: write(run / "run.json", "[]"), ["run.json"]),
    ],
    ids=["missing", "failed", "no model", "cut", "garbage", "record broken", "record of another kind"],
)
def test_a_source_run_that_will_not_do(main, tmp_path, finished, spoil, words):
    shutil.copytree(finished, tmp_path / "source")
    spoil(tmp_path / "source")
    refused(main("train", "source=run", "source.path=source"), *words)
    nothing_written(tmp_path)


def test_a_source_of_another_shape(main, tmp_path, finished):
    wanted = ["does not fit", "expected (16, 1, 3, 3)", "source.min_loaded", "source.partial=true"]
    refused(main("train", "source=run", f"source.path={finished}", "model.width=16"), *wanted)
    refused(
        main("train", "-m", "source=run", f"source.path={finished}", "model.width=32,16"), "job model.width=16", *wanted
    )
    nothing_written(tmp_path)


def test_a_key_below_a_list_is_named(main, tmp_path):
    words = ("strategy=from_scratch", "source=none", "dataset=joint", "dataset.parts=[digits,two_digits]")
    refused(main("train", *words, "dataset.parts.digits._target_=abc"), "(in dataset.parts.digits._target_=abc)")


# Folders and disks


@pytest.mark.parametrize("root", ["file/x", "/proc/x"])
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_an_output_folder_that_cannot_be_written(main, tmp_path, root, sweep):
    write(tmp_path / "file", "")
    refused(main("train", f"output.root={root}", *sweep, *SHORT), "'output.root'", root, "can be written")
    nothing_written(tmp_path)


# Sweeps


@pytest.mark.parametrize(
    ("swept", "words"),
    [
        ("dataset.labels_per_class=1,1000", ["job dataset.labels_per_class=1000", "Choose 1 to 95"]),
        ("model.width=8,x", ["'model.width'", "'x'"]),
        ("seed=0,x", ["'seed'", "'x'"]),
        ("source=pretrain,none", ["source=none"]),
        ("tasks=digit,nope", ["'nope'"]),
        ("hardware.workers=-2", ["'hardware.workers' should be 1 or more", "-2"]),
    ],
)
def test_one_wrong_job_stops_a_sweep_before_its_first(main, tmp_path, monkeypatch, swept, words):
    monkeypatch.setenv("TLMTL_CACHE", str(tmp_path / "cache"))
    refused(main("train", "-m", swept, *SHORT), *words)
    nothing_written(tmp_path)
    assert not (tmp_path / "cache").exists()
