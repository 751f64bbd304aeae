"""Every family of models, every sharing and every kind of task can be exported, and says the same afterwards."""

import json

import numpy as np
import pytest
from conftest import refused
from exported import run_of
from PIL import Image
from sharings import SHARINGS

from tlmtl.export.served import Served
from tlmtl.predict.model import load

THREE = ["dataset=two_digits", "tasks=[right,left,sum]"]
SMALL = ["model.image_size=32"]


def exported(main, run, form, *words):
    """The description of an export that was compared with its run."""
    said = main("export", str(run), "--format", form, "--out", f"new.{form}", *words)
    assert said.code == 0 and said.err == "", said.all
    return json.loads((run.parent / f"new.{form}.json").read_text())


@pytest.fixture
def coloured(tmp_path):
    """A folder of colour images of two classes and several shapes."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 255, (30 + i, 44, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return ["dataset=folder", f"dataset.root={tmp_path / 'photos'}"]


@pytest.mark.slow
def test_resnet_of_grey_images(main, tmp_path):
    about = exported(main, run_of(tmp_path / "run", "model=resnet18", *SMALL), "onnx")
    assert about["input"]["shape"] == ["batch", 1, 32, 32] and len(about["preprocess"]["mean"]) == 3
    assert 0 < about["compared"]["largest_difference"]["digit"] <= 1e-4


@pytest.mark.slow
def test_small_cnn_of_colour_images(main, tmp_path, coloured):
    run = run_of(tmp_path / "run", *coloured, "head.hidden=[8]", "model.width=4")
    about = exported(main, run, "pt2")
    assert about["input"]["shape"] == ["batch", 3, 16, 16] and about["input"]["colours"] == "RGB"
    assert about["compared"]["images"].endswith("of the run's own validation and test images")


@pytest.mark.slow
def test_parts_keep_their_own_statistics(main, tmp_path):
    run = run_of(tmp_path / "run", "dataset=joint", "dataset.parts=[digits,mnist5k]", "model.width=4")
    about = exported(main, run, "onnx")
    assert list(about["outputs"]) == ["digits_digit", "mnist5k_digit"]
    about = exported(main, run, "safetensors", "--task", "mnist5k_digit", "--force")
    assert about["compared"]["largest_difference"] == {"mnist5k_digit": 0.0}


@pytest.mark.parametrize("sharing", SHARINGS)
def test_sharings_and_fewer_tasks_of_them(main, tmp_path, sharing):
    run = run_of(tmp_path / "run", *THREE, f"sharing={sharing}", "model.width=4")
    assert list(exported(main, run, "safetensors")["outputs"]) == ["left", "right", "sum"]
    whole = (tmp_path / "new.safetensors").stat().st_size
    words = ["export", str(run), "--format", "safetensors", "--out", "one.safetensors", "--task", "left"]
    if sharing in ("cross_stitch", "ple"):
        refused(
            main(*words), "modules of one task work for the others too", "export all tasks, or --format onnx or pt2"
        )
        assert not (tmp_path / "one.safetensors").exists()
    else:
        assert main(*words).code == 0
        assert (tmp_path / "one.safetensors").stat().st_size < (0.5 if sharing == "none" else 1) * whole


def test_a_graph_holds_what_its_tasks_need_alone(tmp_path):
    trained = load(run_of(tmp_path / "run", *THREE, "sharing=none", "model.width=4"), [])
    sizes = [sum(p.numel() for p in Served(trained, tasks).parameters()) for tasks in (["sum"], ["left", "sum"])]
    model = trained.model
    own = {task: sum(p.numel() for n, p in model.named_parameters() if f".{task}." in n) for task in ("left", "sum")}
    assert sizes == [own["sum"], own["left"] + own["sum"]]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_graphs_of_sharings(main, tmp_path, sharing, form):
    run = run_of(tmp_path / "run", *THREE, f"sharing={sharing}", "model.width=4")
    about = exported(main, run, form)
    assert list(about["outputs"]) == ["left", "right", "sum"]
    assert exported(main, run, form, "--task", "sum", "--force")["outputs"].keys() == {"sum"}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
@pytest.mark.parametrize(
    "model",
    [
        ["model=efficientnet_lite0"], ["model=mobilenet_v2"], ["model=resnet50"],
        ["model=timm", "model.name=vit_tiny_patch16_224"], ["model=timm", "model.name=convnext_atto"],
        ["model=torchvision", "model.name=swin_t"],
    ],
    ids=lambda words: words[-1],
)  # fmt: skip
def test_families(main, tmp_path, coloured, model, form):
    run = run_of(tmp_path / "run", *model, "model.image_size=64", *coloured)
    about = exported(main, run, form)
    assert about["input"]["shape"] == ["batch", 3, 64, 64]
    assert about["compared"]["largest_difference"]["class"] <= (1e-4 if form == "onnx" else 0)


@pytest.mark.parametrize("form", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_names_of_tasks_that_a_graph_uses_itself(main, tmp_path, form):
    """`images` is the input's name, `relu` and `linear` those of what is inside."""
    import pandas as pd

    (tmp_path / "img").mkdir()
    random = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(random.integers(0, 255, (16, 16), dtype=np.uint8)).save(tmp_path / "img" / f"{i}.png")
    names = ["images", "relu", "linear", "output 0", "größe 1_5"]
    table = {"file": [f"img/{i}.png" for i in range(40)], **{n: random.normal(2000, 1, 40) for n in names}}
    pd.DataFrame(table).to_csv(tmp_path / "t.csv", index=False)
    run = run_of(tmp_path / "run", "dataset=table", f"dataset.path={tmp_path / 't.csv'}", "model.width=4", "tasks=all")
    about = exported(main, run, form, "--task", *names)
    assert about["input"]["name"] == "images_"
    assert set(about["outputs"]) == set(names)
