"""Images, tables, names and models that are not what anybody expects: each costs its own row or one line, never the memory."""

import csv
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TLMTL, refused
from own import picture, table_of
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

import tlmtl
from tlmtl.data import tabular
from tlmtl.data.images import luma
from tlmtl.data.scan import images_of, perceptual_hash, scan
from tlmtl.errors import TlmtlError
from tlmtl.preprocess import Preprocess, cover, fit

random = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the embedded digits, for models that are like its own but for one thing."""
    top = tmp_path_factory.mktemp("hostile")
    words = ["strategy=from_scratch", "train.epochs=1", "model.width=4", "dataset.labels_per_class=2", "progress=false"]
    return tlmtl.run(tlmtl.compose([*words, f"output.root={top}"])).folder


def altered(run, folder, **changes):
    """The run with other metadata."""
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes((run / "run.json").read_bytes())
    with safe_open(run / "model.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["tlmtl"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    for key, change in changes.items():
        about[key] = {**about[key], **change} if isinstance(change, dict) else change
    save_file(tensors, folder / "model.safetensors", metadata={"tlmtl": json.dumps(about)})
    return folder


def grey(path, *shape):
    Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


# Models


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": [1]}, "its tasks should be a mapping from names to what each is, found [1]"),
        ({"tasks": {"digit": 3}}, "its tasks should be a mapping"),
        ({"channels": 7}, "its channels should be 1 (grey) or 3 (colour), found 7"),
        ({"channels": True}, "its channels should be 1 (grey) or 3 (colour), found True"),
        ({"shape": [1, "a", 8]}, "its shape should end in height and width, 1 to 16384 pixels"),
        ({"shape": [1, 10**9, 8]}, "its shape should end in height and width"),
        ({"preprocess": {"resize": "x"}}, "its preprocess.resize should be a number of pixels, 1 to 16384, found 'x'"),
        ({"preprocess": {"crop": 0}}, "its preprocess.crop should be a number of pixels"),
        ({"preprocess": {"mean": ["a"]}}, "its preprocess.mean should be 1 or 3 numbers, found ['a']"),
        ({"preprocess": {"mean": [float("nan")]}}, "its preprocess.mean should be 1 or 3 numbers"),
        ({"preprocess": {"std": [0.0]}}, "its preprocess.std should be above 0"),
        ({"preprocess": {"interpolation": "nearest"}}, "its preprocess.interpolation should be bilinear or bicubic"),
        ({"preprocess": {"more": 1}}, "its preprocess should be a mapping of resize, crop, mean, std, interpolation"),
        ({"preprocess": 5}, "its preprocess should be a mapping"),
        ({"model": {"_target_": "${oc.env:HOME}"}}, "a model comes from tlmtl.models"),
        ({"model": 3}, "does not say what is needed to predict: ValidationError: Object of"),
    ],
)
def test_metadata_of_a_stranger(main, run, tmp_path, changes, told):
    grey(tmp_path / "a.png", 8, 8)
    said = main("predict", str(altered(run, tmp_path / "other", **changes)), "a.png")
    refused(said, "other/model.safetensors" if "model" not in changes else "model")
    assert told in said.err


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (
            {"_target_": "tlmtl.models.source.read_model", "folder": "x"},
            "cannot be built: TypeError: unsupported operand",
        ),
        (
            {"_target_": "tlmtl.models.source.no_source"},
            "its model._target_ should make a Encoder, and made a NoneType",
        ),
        (
            {"_target_": "tlmtl.models.torchvision.torchvision_model", "name": "squeezenet1_1", "image_size": 3},
            "cannot be built: RuntimeError: ",
        ),
    ],
)
def test_a_model_that_builds_something_else(main, run, tmp_path, target, told):
    grey(tmp_path / "a.png", 8, 8)
    folder = altered(run, tmp_path / "other")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["tlmtl"])
    about["model"] = target
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors", metadata={"tlmtl": json.dumps(about)})
    refused(main("predict", str(folder), "a.png"), told)


# Pictures


def test_strips_are_scaled_in_their_middle_alone():
    whole = Preprocess(8, None, (0.5,), (0.5,))
    strip = torch.zeros(1, 1, 3_000_000, 1, dtype=torch.uint8)
    strip[:, :, 1_499_990:1_500_010] = 200
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for one in (strip, strip.transpose(2, 3)):
        assert cover(one, whole, (8, 8)).tolist() == torch.full((1, 1, 8, 8), 200).tolist()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; the whole strip takes gigabytes
    for shape in ((40, 60), (200, 13), (8, 8)):  # up to 16 times as long: as ever
        image = torch.from_numpy(random.integers(0, 256, (1, 3, *shape), dtype=np.uint8))
        scale = 8 / min(shape)
        resized = fit(image, Preprocess(max(1, round(min(shape) * scale)), None, (0.5,), (0.5,)))
        top, left = (round((side - 8) / 2) for side in resized.shape[-2:])
        assert torch.equal(cover(image, whole, (8, 8)), resized[..., top : top + 8, left : left + 8])


def test_what_a_picture_looks_like():
    """The hash of an ordinary picture is as ever; that of a scan is found without a copy of it in floating point."""
    from scipy.fft import dctn

    for channels, side in ((1, 1024), (3, 700), (1, 50)):
        image = random.integers(0, 256, (channels, side, side // 2), dtype=np.uint8)
        small = F.interpolate(torch.from_numpy(image)[None].float(), (32, 32), mode="bilinear", antialias=True)
        low = dctn(luma(small)[0, 0].double().numpy())[:8, :8].ravel()
        assert perceptual_hash(image) == int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    small, large = (np.array(coarse.resize((n, n), Image.Resampling.BICUBIC)).transpose(2, 0, 1) for n in (900, 6000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hashed = perceptual_hash(large)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; in floating point it is 432,000
    assert bin(hashed ^ perceptual_hash(small)).count("1") <= 2
    assert bin(perceptual_hash(large[:1]) ^ perceptual_hash(small[:1])).count("1") <= 2


def test_an_image_that_vanishes_is_named(tmp_path):
    paths = [str(picture(tmp_path / f"{i}.{kind}", i)) for i, kind in enumerate(("png", "jpg"))]
    images = images_of(paths, scan(paths), np.arange(2))
    for path in paths:
        Path(path).unlink()
        with pytest.raises(TlmtlError, match=rf"could no longer be read: {path}: No such file or directory. .*resume="):
            images.read(torch.tensor([paths.index(path)]), Preprocess(8, 8, (0.5,), (0.5,)))


# Names and what is behind them


def test_pipes_are_not_waited_for(main, run, tmp_path, monkeypatch):
    grey(tmp_path / "a.png", 8, 8), os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "t.csv").write_text("image\na.png\npipe.png\nlink.png\nfolder.png\ngone.png\n")
    expected = ["", "no ordinary file", "no ordinary file", "Is a directory", "No such file or directory"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.png\npipe.png\nlink.png\nfolder.png\ngone.png\n"))
    for words in (["t.csv"], ["-"]):
        said = main("predict", str(run), *words)
        assert said.code == 1 and [row["error"] for row in csv.DictReader(io.StringIO(said.out))] == expected
    said = main("predict", str(run), "a.png", "link.png")
    assert [row["error"] for row in csv.DictReader(io.StringIO(said.out))] == expected[:2]


def test_names_that_are_not_utf8(main, run, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    grey(tmp_path / name, 8, 8)
    for words in ([name], ["."]):
        said = main("predict", str(run), *words)
        assert said.code == 0 and "caf\\udce9.png," in said.out
    assert main("predict", str(run), name, "--out", "x.csv").code == 0
    assert (tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()[1].startswith("caf\\udce9.png,")
    assert main("predict", str(run), name, "--out", "x.parquet").code == 0
    assert list(pd.read_parquet(tmp_path / "x.parquet")["image"]) == ["caf\\udce9.png"]


def test_names_on_standard_input_and_in_an_old_encoding(run, tmp_path):
    grey(tmp_path / os.fsdecode(b"caf\xe9.png"), 8, 8), grey(tmp_path / "Ω.png", 8, 8)
    done = subprocess.run(
        [TLMTL, "predict", str(run), "-"],
        input=b"caf\xe9.png\n\xce\xa9.png\n", capture_output=True, cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.split(b",")[0] for line in done.stdout.splitlines()[1:]] == [b"caf\\udce9.png", "Ω.png".encode()]


# Tables


def test_only_line_ends_end_a_row(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        lines = ["image,label", "a.png,x\u2028y", "b.png,x\x0by\x85z", '"c.png","two\nlines"', "d.png,e"]
        path = tmp_path / f"{len(end)}{ord(end[0])}.csv"
        path.write_bytes(end.join(lines).encode() + end.encode())
        found = tabular.read(str(path))
        assert list(found["label"]) == ["x\u2028y", "x\x0by\x85z", "two\nlines", "e"]
        assert list(found.index) == [2, 3, 5, 6]


@pytest.mark.parametrize("name", ["${oc.env:SECRET}", "a ${seed} b", "${oops", "???"])
def test_a_column_is_no_reference(main, tmp_path, monkeypatch, name):
    monkeypatch.setenv("SECRET", "hunter2")
    rows = [[str(picture(tmp_path / "t" / f"{i}.png", i)), "ab"[i % 2], "cd"[i % 2]] for i in range(12)]
    path = table_of(tmp_path / "t", rows, ["image", name, "other"])
    said = main("train", "dataset=table", f"dataset.path={path}")
    refused(said, name, "dataset.labels=[COLUMN]", "Rename")
    assert "hunter2" not in said.all
    said = main("check", "dataset=table", f"dataset.path={path}", "dataset.labels=[other]")
    assert "other" in said.out and "hunter2" not in said.all


def test_a_run_whose_image_vanishes_goes_on_once_it_is_back(main, tmp_path, monkeypatch):
    from tlmtl.data import scan as module

    data = tmp_path / "data"
    for i in range(40):
        picture(data / "ab"[i % 2] / f"{i}.png", i)
    gone, kept = data / "a" / "0.png", tmp_path / "0.png"
    real = module.decode_fast

    def removing(path, channels):
        if gone.exists() and not kept.exists():
            gone.rename(kept)
        return real(path, channels)

    monkeypatch.setattr(module, "decode_fast", removing)
    words = ["dataset=folder", "dataset.root=data", "strategy=from_scratch", "model.width=4", "model.image_size=16"]
    words += ["train.epochs=2", "hardware.images_mb=0", "progress=false"]
    said = main("train", *words)
    assert said.code == 1 and "could no longer be read" in said.err and "a/0.png: No such file" in said.err, said.all
    assert "Traceback" not in said.all
    kept.rename(gone)
    monkeypatch.setattr(module, "decode_fast", real)
    (folder,) = [path.parent for path in (tmp_path / "outputs").rglob("results.csv")]
    assert main("train", f"resume={folder}", "progress=false").code == 0
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
