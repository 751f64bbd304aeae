"""`tlmtl predict`: labels for new images from a run's folder alone, whatever the images are like."""

import csv
import io
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import tlmtl
from tlmtl.data.digits import scans
from tlmtl.errors import ConfigError
from tlmtl.features import engines, openvino
from tlmtl.predict import model
from tlmtl.predict.engine import Engine


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the embedded digits with a classification and a regression, its folder moved away from its data."""
    top = tmp_path_factory.mktemp("predict")
    overrides = [
        "strategy=from_scratch",
        "tasks=[digit,ink]",
        "train.epochs=40",
        "progress=false",
        f"output.root={top}",
    ]
    done = tlmtl.run(tlmtl.compose([*overrides, "dataset.labels_per_class=20"]))
    moved = top / "moved"
    shutil.move(done.folder, moved)
    return moved


def rows(said):
    return list(csv.DictReader(io.StringIO(said.out)))


def save(path, index, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(scans()[0][index])
    if mode == "I;16":
        image = Image.fromarray(scans()[0][index].astype(np.uint16) * 257)
    elif mode != "L":
        image = image.convert(mode)
    image.save(path)
    return path


def test_what_it_says_is_what_the_run_stored(main, run, tmp_path):
    stored = pd.read_parquet(run / "predictions.parquet")
    test = stored[(stored["split"] == "test") & (stored["task"] == "digit")].head(30)
    for name in test["id"]:
        save(tmp_path / "new" / f"{name}.png", int(name))
    said = main("predict", str(run), "new")
    assert said.code == 0
    found = {row["image"].split("/")[-1].removesuffix(".png"): row for row in rows(said)}
    ink = stored[(stored["split"] == "test") & (stored["task"] == "ink")].set_index("id")["output"]
    for _, row in test.iterrows():
        scores = np.exp(row["output"] - row["output"].max())
        assert found[row["id"]]["digit"] == str(row["output"].argmax())
        assert float(found[row["id"]]["digit_probability"]) == pytest.approx(scores.max() / scores.sum(), abs=1e-4)
        assert float(found[row["id"]]["ink"]) == pytest.approx(float(ink[row["id"]][0]), abs=1e-4)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16", "LA"])
def test_the_mode_of_a_picture_does_not_matter(main, run, tmp_path, mode):
    save(tmp_path / "grey.png", 5), save(tmp_path / "other.png", 5, mode)
    grey, other = rows(main("predict", str(run), "grey.png", "other.png"))
    assert {**other, "image": ""} == {**grey, "image": ""}


def test_size_and_orientation_do_not_matter(main, run, tmp_path):
    large = Image.fromarray(scans()[0][3]).resize((80, 80), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    large.rotate(90).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.pad(np.asarray(large), ((0, 0), (60, 60)))).save(tmp_path / "wide.png")
    Image.fromarray(np.zeros((1, 900), np.uint8)).save(tmp_path / "strip.png")
    found = rows(main("predict", str(run), "large.png", "turned.png", "wide.png", "strip.png"))
    assert [row["digit"] for row in found[:3]] == ["3", "3", "3"]
    assert found[0]["digit_probability"] == found[1]["digit_probability"] == found[2]["digit_probability"]
    assert 0.1 <= float(found[3]["digit_probability"]) <= 1


def test_tables_names_on_standard_input_and_parquet(main, run, tmp_path, monkeypatch):
    for i in range(4):
        save(tmp_path / "d" / "img" / f"{i}.png", i)
    (tmp_path / "d" / "new.csv").write_text("id,photo\n" + "".join(f"{i},img/{i}.png\n" for i in range(4)))
    said = main("predict", str(run), "d/new.csv", "--out", "out.parquet", "--top", "3", "--batch-size", "3")
    assert said.code == 0 and "4 predictions written to out.parquet" in said.err and said.out == ""
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert list(found["image"]) == [f"img/{i}.png" for i in range(4)] and found["error"].isna().all()
    ranked = found[["digit_probability", "digit_2_probability", "digit_3_probability"]].to_numpy()
    assert (np.diff(ranked) <= 0).all() and (ranked.sum(1) <= 1 + 1e-6).all()
    monkeypatch.setattr(sys, "stdin", io.StringIO("d/img/2.png\n\nd/img/1.png\n"))
    assert [row["image"] for row in rows(main("predict", str(run), "-"))] == ["d/img/2.png", "d/img/1.png"]


def test_tables_as_other_programs_write_them(main, run, tmp_path):
    save(tmp_path / "ä.png", 3)
    (tmp_path / "new.csv").write_bytes("nr;bild\n1;ä.png\n".encode("cp1252"))
    said = main("predict", str(run), "new.csv")
    assert said.code == 2 and "Save it as UTF-8, or say what it is, such as --encoding=cp1252" in said.err
    said = main("predict", str(run), "new.csv", "--encoding", "cp1252")
    assert said.code == 0 and rows(said)[0]["image"] == "ä.png"
    said = main("predict", str(run), "new.csv", "--encoding", "cp1252", "--delimiter", ";;")
    assert said.code == 2 and "'--delimiter' should be one character" in said.err


def test_bad_files_cost_only_their_rows(main, run, tmp_path):
    save(tmp_path / "a.png", 1), (tmp_path / "b.png").write_text("no image"), save(tmp_path / "c.png", 2)
    said = main("predict", str(run), "b.png", "a.png", "c.png", "--out", "out.csv")
    assert said.code == 1 and "1 of 3 files could not be read (b.png: no image of a known format)" in said.err
    found = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [(row["image"], row["digit"] != "", row["error"]) for row in found] == [
        ("b.png", False, "no image of a known format"), ("a.png", True, ""), ("c.png", True, "")
    ]  # fmt: skip


def test_what_cannot_be_done_leaves_nothing(main, run, tmp_path):
    (tmp_path / "note.txt").write_text("text"), (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    picture = str(save(tmp_path / "a.png", 1))
    failed = tmp_path / "failed"
    shutil.copytree(run, failed)
    (failed / "run.json").write_text(json.dumps({**json.loads((run / "run.json").read_text()), "status": "failed"}))
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    (cut / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:2000])
    before = sorted(tmp_path.rglob("*"))
    for words, told in (
        (["note.txt"], "None of the 1 file(s) can be read as an image"),
        (["empty"], "Found no image at empty"),
        (["nowhere.png"], "found nothing at nowhere.png"),
        (["table.csv"], "No column of the table holds names of image files. Name it: --image=COLUMN. It has: a, b"),
        (["table.csv", "--image", "c"], "'--image' should be a column of the table. Found 'c'"),
        (["a.png", "--out", "x.txt"], "--out should be a .csv or .parquet file"),
        (["a.png", "--out", "no/x.csv"], "--out should be a file in a folder that is there"),
        (["a.png", "--top", "0"], "expected a number, 1 or more"),
        ([], "expected images"),
    ):
        said = main("predict", str(run), *words, *(["--out", "out.csv"] if words[:1] == ["note.txt"] else []))
        assert (said.code, said.out) == (2, "") and told in said.err, said.all
    for folder, told in (
        (failed, "is not finished (status failed): one to predict with should be"),
        (cut, "model.safetensors is broken"),
        (tmp_path / "empty", "found no run.json"),
        (tmp_path, "holds 2 runs, and one is wanted"),
    ):
        said = main("predict", str(folder), picture)
        assert (said.code, said.out) == (2, "") and told in said.err, said.all
    assert sorted(tmp_path.rglob("*")) == before


def test_of_a_sweep_the_best_run_is_named(main, tmp_path):
    words = ["strategy=from_scratch", "model.width=4", "train.epochs=10", "progress=false"]
    assert main("train", "-m", *words, "optimizer.lr=1e-5,1e-2").code == 0
    rows = pd.read_csv(tmp_path / "outputs/sweeps/latest/results.csv")
    best = rows.loc[rows["val/accuracy"].idxmax()]
    picture = str(save(tmp_path / "a.png", 1))
    said = main("predict", "outputs/sweeps/latest", picture)
    assert said.code == 2 and said.out == "" and best["lr"] == 0.01
    assert f"is outputs/sweeps/latest/{best['config_hash']}, of strategy=from_scratch seed=0" in said.err
    assert main("predict", f"outputs/sweeps/latest/{best['config_hash']}", picture).code == 0


def test_folders_of_links_end(main, run, tmp_path):
    save(tmp_path / "d" / "a.png", 1)
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "readme.txt").write_text("passed over")
    said = main("predict", str(run), "d")
    assert [row["image"] for row in rows(said)] == ["d/a.png"]
    assert "1 file(s) in d do not have the name of an image" in said.err


def test_a_strangers_folder_imports_nothing(main, run, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    evil = tmp_path / "evil"
    shutil.copytree(run, evil)
    with safe_open(run / "model.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["tlmtl"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about["model"] = {"_target_": "os.system", "command": "touch ran"}
    save_file(tensors, evil / "model.safetensors", metadata={"tlmtl": json.dumps(about)})
    said = main("predict", str(evil), str(save(tmp_path / "a.png", 1)))
    assert said.code == 2 and "may not be 'os.system'" in said.err and not (tmp_path / "ran").exists()


# --- engines ----------------------------------------------------------------------------------------------------------------

FEW = ("dataset.labels_per_class=null", "dataset.label_fraction=0.02")
ALL = ("torch", "onnxruntime", "openvino")


def numbers(found: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(row["digit_probability"]), float(row["ink"])] for row in found])


def test_every_engine_says_the_same(main, run, tmp_path):
    for i in range(7):  # the last batch is not a full one, and one file is no image
        save(tmp_path / "new" / f"{i}.png", i)
    (tmp_path / "new" / "broken.png").write_text("no image")
    said = {name: main("predict", str(run), "new", "--engine", name, "--batch-size", "4") for name in ALL}
    expected = rows(said["torch"])
    for name in ALL:
        assert (said[name].code, len(said[name].err.splitlines())) == (1, 1), name  # nothing but the broken file
        found = rows(said[name])
        assert [(row["image"], row["digit"]) for row in found] == [(row["image"], row["digit"]) for row in expected]
        np.testing.assert_allclose(numbers(found[:7]), numbers(expected[:7]), rtol=0, atol=1e-5)


def test_auto_takes_an_engine_where_there_is_much_to_do(main, run, tmp_path, monkeypatch):
    used = []
    load = openvino.load
    monkeypatch.setattr(openvino, "load", lambda *given: used.append(given[1:]) or load(*given))
    for i in range(3):
        save(tmp_path / "new" / f"{i}.png", i)
    few = main("predict", str(run), "new")
    assert few.code == 0 and used == []
    monkeypatch.setattr(engines, "LEAST", 1)
    many = main("predict", str(run), "new")
    assert many.code == 0 and used == [(torch.get_num_threads(), False)]  # in 32 bits, whatever the processor can
    np.testing.assert_allclose(numbers(rows(many)), numbers(rows(few)), rtol=0, atol=1e-5)


def test_an_engine_that_cannot_be_had_is_told_before_anything(main, run, tmp_path, monkeypatch):
    save(tmp_path / "a.png", 1)
    said = main("predict", str(run), "a.png", "--engine", "openvno", "--out", "out.csv")
    assert (
        said.code == 2
        and "'--engine' should be one of auto, torch, onnxruntime, openvino. Found 'openvno'." in said.err
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = main("predict", str(run), "a.png", "--engine", "onnxruntime", "--out", "out.csv")
    assert said.code == 2 and "'--engine=onnxruntime' needs onnxruntime, not installed here: pip install" in said.err
    monkeypatch.setattr(engines, "graph_of", lambda *_: b"no graph")
    said = main("predict", str(run), "a.png", "--engine", "openvino", "--out", "out.csv")
    assert said.code == 2 and "'--engine=openvino' cannot be used here: it does not take this network (" in said.err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("words", "backbones"),
    [
        (["dataset=two_digits", "tasks=[left,sum]", *FEW, "sharing=none"], 2),
        (["dataset=two_digits", "tasks=[left,sum]", *FEW, "sharing=mmoe"], 1),
        (["dataset=two_digits", "tasks=[left,sum]", *FEW, "sharing=cross_stitch"], 0),
        (
            [
                "dataset=joint",
                "dataset.parts=[mnist5k,digits]",
                "tasks=[mnist5k_digit,digits_digit,digits_ink]",
                "dataset.labels_per_class=2",
            ],
            2,
        ),
        (["dataset=digits", "tasks=[digit,reconstruction]", "dataset.labels_per_class=2"], 1),
    ],
    ids=["separate", "experts", "between stages", "joint", "reconstruction"],
)
def test_backbones_of_every_sharing(tmp_path, monkeypatch, words, backbones):
    done = tlmtl.run(tlmtl.compose(["strategy=from_scratch", "train.epochs=8st", "progress=false", *words,
                                    f"output.root={tmp_path}"]))  # fmt: skip
    trained = model.load(done.folder, [])
    images = torch.randint(0, 255, (5, trained.channels, *trained.size), dtype=torch.uint8)
    expected = Engine(trained, "torch")(images)
    monkeypatch.setattr(engines, "LEAST", 1)
    engine = Engine(trained, "auto", 5, 4)
    found = engine(images)
    assert [one.name for one in engine.runners.values()] == ["openvino"] * backbones
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value.numpy(), rtol=1e-5, atol=1e-5)
    if not backbones:
        with pytest.raises(ConfigError, match="runs a whole backbone, and CrossStitch works between its stages"):
            Engine(trained, "openvino")
