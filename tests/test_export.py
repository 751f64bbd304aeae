"""`tlmtl export`: what is written says what the run's model says, to whoever opens it; where it does not, nothing is left."""

import copy
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from PIL import Image

import tlmtl
from tlmtl.data.digits import scans
from tlmtl.export import formats, make

DOCS = Path(__file__).parent.parent / "docs" / "export.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run with a classification, a regression and a reconstruction."""
    top = tmp_path_factory.mktemp("export")
    settings = ["train.epochs=8", "progress=false", f"output.root={top}", "dataset.labels_per_class=20"]
    return tlmtl.run(tlmtl.compose(["strategy=from_scratch", "tasks=[digit,ink,reconstruction]", *settings])).folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """By format, the file of an export of that run."""
    from tlmtl import cli

    top = tmp_path_factory.mktemp("exported")
    for form in ("onnx", "pt2", "safetensors"):
        assert cli.main(["export", str(run), "--out", str(top / f"digits.{form}")]) == 0
    return {form: top / f"digits.{form}" for form in ("onnx", "pt2", "safetensors")}


def example(name, folder):
    """A program of the documentation, as a file."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(f"# {name}:")]
    (folder / name).write_text(found)
    return folder / name


def python(*words, cwd):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def images_in(folder, numbers, size=8):
    folder.mkdir()
    for i in numbers:
        image = Image.fromarray(scans()[0][i])
        (image if size == 8 else image.resize((size, size + 9), Image.Resampling.BICUBIC)).save(folder / f"{i:04}.png")
    return [f"{folder.name}/{i:04}.png" for i in numbers]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "near"), [(8, 1e-5), (41, 0.02)])
def test_the_example_for_onnx_says_what_predict_says_without_torch(main, run, exported, tmp_path, size, near):
    names = images_in(tmp_path / "new", range(0, 500, 10), size)
    program = example("classify.py", tmp_path)
    program.write_text(program.read_text() + "print([name for name in sys.modules if name in ('torch', 'tlmtl')])\n")
    *lines, loaded = python(program, exported["onnx"], *names, cwd=tmp_path).splitlines()
    assert loaded == "[]"
    said = {tuple(line.split()[:2]): line.split()[2:] for line in lines}
    predicted = list(csv.DictReader(io.StringIO(main("predict", str(run), "new").out)))
    assert len(predicted) == 50 and len(said) == 150
    differ = 0
    for row in predicted:
        label, probability = said[row["image"], "digit"]
        differ += label != row["digit"]
        assert label != row["digit"] or abs(float(probability) - float(row["digit_probability"])) < near
        assert float(said[row["image"], "ink"][0]) == pytest.approx(float(row["ink"]), abs=near)
        assert float(said[row["image"], "reconstruction"][0]) == pytest.approx(
            float(row["reconstruction_rmse"]), abs=near
        )
    assert differ <= (0 if size == 8 else 1)


@pytest.mark.slow
def test_the_example_for_pt2_runs_without_tlmtl(exported, tmp_path):
    out = python(example("run_pt2.py", tmp_path), exported["pt2"], cwd=tmp_path)
    assert out.splitlines() == [
        "digit classification (4, 10)",
        "ink regression (4,)",
        "reconstruction reconstruction (4,)",
    ]


def test_what_it_tells(main, run, exported, tmp_path):
    said = main("export", str(run), "--format", "safetensors", "--out", "here")
    assert said.code == 0 and said.err == ""
    assert said.out.splitlines()[:3] == [
        f"here/model.safetensors ({Path('here/model.safetensors').stat().st_size / 1e6:.1f} MB), described in here/model.json",
        "  in   images: float32 batch x 1 x 16 x 16, grey",
        "  out  digit: float32 batch x 10, scores of the classes, before softmax",
    ]
    assert (
        "compared with the run's model on 32 of the run's own validation and test images: largest difference 0.0e+00 "
        "(allowed 0), none of 32 labels differ." in said.out
    )
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["model.json", "model.safetensors"]


def test_the_description_is_beside_the_file_and_in_it(run, exported):
    import onnx
    from safetensors import safe_open

    extra = {"model.json": ""}
    torch.export.load(exported["pt2"], extra_files=extra)
    with safe_open(exported["safetensors"], "pt") as file:
        inside = {"pt2": json.loads(extra["model.json"]), "safetensors": json.loads(file.metadata()["tlmtl"])["export"]}
    properties = {one.key: one.value for one in onnx.load(exported["onnx"]).metadata_props}
    inside["onnx"] = json.loads(properties["tlmtl"])
    for form, path in exported.items():
        beside = json.loads(path.with_name(f"{path.name}.json").read_text())

        compared = beside.pop("compared")
        assert beside == inside[form] and beside["format"] == form
        assert compared["batches"] == [1, 7, 24] and max(compared["largest_difference"].values()) <= compared["allowed"]
    about = inside["onnx"]
    assert about["input"] == {
        "name": "images", "dtype": "uint8", "shape": ["batch", 1, 16, 16], "colours": "grey", "values": "0 to 255",
    }  # fmt: skip
    assert about["outputs"]["digit"]["classes"] == [str(i) for i in range(10)]
    assert about["run"]["run_id"] == run.name


def test_onnx_takes_any_number_of_images_and_names_its_outputs(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported["onnx"])
    assert [one.name for one in session.get_outputs()] == ["digit", "ink", "reconstruction"]
    assert [one.shape for one in session.get_outputs()] == [["batch", 10], ["batch"], ["batch"]]
    pixels = np.random.default_rng(0).integers(0, 256, (9, 1, 16, 16), dtype=np.uint8)
    together = session.run(None, {"images": pixels})
    for i in range(9):
        alone = session.run(None, {"images": pixels[i : i + 1]})
        assert all(np.allclose(one[0], many[i], rtol=1e-5) for one, many in zip(alone, together, strict=True))
    assert np.allclose(together[0].sum(1), 1, atol=1e-6)


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes_which_say_nothing_of_the_machine(main, run, exported, tmp_path):
    for form, path in exported.items():
        assert main("export", str(run), "--format", form, "--out", form).code == 0
        again = (tmp_path / form / f"model.{form}").read_bytes()
        assert again == path.read_bytes(), form
        for word in (b"site-packages", b"/home", b"/work", b"tlmtl/sharing", bytes(tmp_path)):
            assert word not in again, (form, word)


def test_parameters_go_on_as_a_source(main, exported, tmp_path):
    said = main("train", "source=file", f"source.path={exported['safetensors']}", "train.epochs=1", "progress=false")
    assert said.code == 0 and "100% of the backbone's parameters loaded" in said.all


def test_chosen_tasks_and_a_fixed_batch(main, run, tmp_path):
    import onnxruntime

    said = main("export", str(run), "--task", "ink", "--batch", "3", "--out", "ink.onnx")
    assert said.code == 0 and "on 30 of the run's own" in said.out and "labels" not in said.out
    session = onnxruntime.InferenceSession(tmp_path / "ink.onnx")
    assert [one.shape for one in (*session.get_inputs(), *session.get_outputs())] == [[3, 1, 16, 16], [3]]


def test_what_is_there_stays_unless_forced(main, run, tmp_path):
    (tmp_path / "full").mkdir(), (tmp_path / "full" / "note.txt").write_text("mine")
    refused(main("export", str(run), "--out", "full"), "full is there already, and is not empty. --force replaces")
    (tmp_path / "a.safetensors.json").write_text("mine")
    refused(
        main("export", str(run), "--out", "a.safetensors"), "a.safetensors.json is there already. --force replaces it"
    )
    refused(main("export", str(run), "--out", f"{run}/model.safetensors", "--force"), "belongs to the run in")
    (tmp_path / "b.onnx").mkdir()
    refused(main("export", str(run), "--out", "b.onnx", "--force"), "there is a folder of that name")
    assert (tmp_path / "a.safetensors.json").read_text() == "mine" and json.loads((run / "run.json").read_text())[
        "status"
    ] == "done"
    assert main("export", str(run), "--out", "full", "--force", "--format", "safetensors").code == 0
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == [
        "model.json",
        "model.safetensors",
        "note.txt",
    ]
    assert main("export", str(run), "--format", "safetensors").code == 0
    refused(main("export", str(run), "--format", "safetensors"), "export/safetensors is there already")


def test_what_cannot_be_done_leaves_nothing(main, run, tmp_path):
    failed, cut, foreign = (tmp_path / name for name in ("failed", "cut", "foreign"))
    for folder in (failed, cut, foreign):
        shutil.copytree(run, folder, ignore=shutil.ignore_patterns("export"))
    record = json.loads((run / "run.json").read_text())
    (failed / "run.json").write_text(json.dumps({**record, "status": "failed"}))
    (cut / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:3000])
    data = (
        (run / "model.safetensors")
        .read_bytes()
        .replace(b"tlmtl.models.small_cnn.small_cnn", b"subprocess.models.small_cnnsmall")
    )
    (foreign / "model.safetensors").write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    for folder, told in (
        (failed, "is not finished (status failed): one to export should be (RUN)"),
        (cut, "model.safetensors is broken"),
        (foreign, "may not be 'subprocess.models.small_cnnsmall'"),
        (tmp_path / "nowhere", "found no run.json"),
        (tmp_path, "holds 3 runs, and one is wanted (RUN)"),
    ):
        refused(main("export", str(folder), "--out", "x.onnx"), told)
    for words, told in (
        (["--format", "onx"], "Unknown format 'onx'. Did you mean 'onnx'? --format is onnx, pt2 or safetensors."),
        (["--format", "pt2", "--out", "x.onnx"], "--format pt2 is a file that ends in .pt2. Found --out x.onnx"),
        (["--out", "no/x.onnx"], "Found no folder no"),
        (["--out", "x.pth"], "should be a folder, or a file that ends in .onnx, .pt2 or .safetensors. Found x.pth"),
        (
            ["--task", "digt"],
            "The run has no task 'digt' (--task). Did you mean 'digit'? It has: digit, ink, reconstruction",
        ),
        (["--batch", "0"], "expected dynamic, or a number from 1 to 4096, found '0'"),
    ):
        said = main("export", str(run), *(words if "--out" in words else [*words, "--out", "x"]))
        assert said.code == 2 and told in said.err and said.out == "", said.all
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_names_its_best_run(main, run, tmp_path):
    name = json.loads((run / "run.json").read_text())["config_hash"]
    shutil.copytree(run, tmp_path / "sweep" / name, ignore=shutil.ignore_patterns("export"))
    shutil.copy(run / "results.csv", tmp_path / "sweep")
    refused(
        main("export", "sweep"), "is a sweep, and one run is wanted (RUN). Best on validation (digit: accuracy", name
    )


def test_a_graph_that_says_something_else_is_not_left(main, run, tmp_path, monkeypatch):
    def forward(self, images, real=make.Served.forward):
        return {name: one + 1e-3 * (name == "ink") for name, one in real(self, images).items()}

    monkeypatch.setattr(make.Served, "forward", forward)
    said = main("export", str(run), "--out", "new")
    refused(said, "does not say what the run's does: they differ by", "about 'ink'", "in 0 of 32 labels", code=1)
    assert list(tmp_path.iterdir()) == []


def test_parameters_that_say_something_else_are_not_left(main, run, tmp_path, monkeypatch):
    def pruned(*words, real=make.pruned):
        model = real(*words)
        model.heads = copy.deepcopy(model.heads)
        model.heads["digit"].linear.bias.data[0] += 1e-6
        return model

    monkeypatch.setattr(make, "pruned", pruned)
    said = main("export", str(run), "--out", "new.safetensors")
    refused(said, "does not say what the run's does: they differ by", "about 'digit' (allowed: 0)", code=1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_loaded_again_is_not_left(main, run, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "write_onnx", lambda path, made, about: path.write_bytes(b"no graph"))
    refused(main("export", str(run), "--out", "x.onnx"), "The exported file cannot be loaded again: ", code=1)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_traced_is_told(main, run, tmp_path, monkeypatch):
    def forward(self, images):
        return {"digit": images.float() * float(images.float().mean())}

    monkeypatch.setattr(make.Served, "forward", forward)
    said = main("export", str(run), "--out", "x.onnx")
    refused(said, "PyTorch cannot export this model (", "Try --format safetensors.", code=1)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(main, run, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else find(name, *rest)
    )
    refused(main("export", str(run), "--out", "x.onnx"), "needs the package onnxscript", "pip install 'tlmtl[export]'")


def test_a_full_disk_and_a_folder_that_cannot_be_written(main, run, tmp_path, monkeypatch):
    def full(path, *rest):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(formats, "write_safetensors", full)
        refused(main("export", str(run), "--out", "x.safetensors"), "No space left on device", code=1)
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "save", lambda *a, **k: (_ for _ in ()).throw(
            RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")))  # fmt: skip
        refused(main("export", str(run), "--out", "x.pt2"), "No space left on the device?", code=1)
    refused(
        main("export", str(run), "--out", "/proc/x.safetensors"),
        "'--out' should be a folder that can be written. /proc",
    )
    assert list(tmp_path.iterdir()) == []


def test_without_its_data_noise_is_compared(main, run, tmp_path):
    shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("export"))
    config = (run / "config.yaml").read_text()
    (tmp_path / "moved" / "config.yaml").write_text(config.replace("tlmtl.data.digits.digits", "os.system"))
    said = main("export", "moved", "--format", "safetensors")
    assert said.code == 0 and "on 32 images of noise, as the run's own are not at hand: largest difference" in said.out


def test_help_is_light(tlmtl, tmp_path):
    said = tlmtl(["export", "--help"], tmp_path)
    assert said.code == 0 and "--format FORMAT" in said.out
    code = "import sys; from tlmtl.cli import main; main(['export', '--help']); print('torch' in sys.modules)"
    assert python("-c", code, cwd=tmp_path).endswith("False\n")
    assert "export" in tlmtl(["--help"], tmp_path).out


def test_a_signal_leaves_nothing_half_made(run, main, monkeypatch, tmp_path):
    def stopped(*_args):
        assert [path.name.startswith(".export.") for path in (tmp_path / "there").iterdir()] == [True]
        os.kill(os.getpid(), signal.SIGTERM)

    (tmp_path / "there").mkdir()
    monkeypatch.setattr(make, "agreement", stopped)
    said = main("export", str(run), "--format", "safetensors", "--out", str(tmp_path / "there" / "digits.safetensors"))
    assert said.code == 75 and "Stopped by SIGTERM" in said.err and "goes on" not in said.err, said.all
    assert list((tmp_path / "there").iterdir()) == []
