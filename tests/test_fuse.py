"""Runs of a sweep that differ in their heads alone are trained together, and are what each would be alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest

import tlmtl as package
from tlmtl import identity
from tlmtl.assemble import assemble
from tlmtl.columns import MEASURED
from tlmtl.errors import ConfigError
from tlmtl.models.saved import read_model
from tlmtl.pretrain import with_source
from tlmtl.sweep import fuse
from tlmtl.sweep.compose import Composer
from tlmtl.sweep.fuse import Head, head_of, units
from tlmtl.sweep.limits import Limits
from tlmtl.sweep.running import Running

TLMTL = str(Path(sys.executable).with_name("tlmtl"))
QUICK = ["train.epochs=4", "source.train.epochs=1", "train.evaluate_every=50%", "strategy=linear_probe"]
# One of three rates is far too large: its heads fail, and the others are as if they had not been there.
SWEEP = [
    "train",
    "-m",
    "optimizer.lr=1e-3,1e-2,1e20",
    "seed=0,1",
    "dataset.labels_per_class=5,20",
    "head.dropout=0,0.3",
]
SWEEP += ["optimizer=sgd", "train.early_stopping=1ep", "hardware.workers=1", *QUICK]
OTHERWISE = [*MEASURED, "run_id", "fused_with"]


def call(words, cwd, timeout=300):
    return subprocess.run([TLMTL, *words], cwd=cwd, capture_output=True, text=True, timeout=timeout)


def table(cwd: Path) -> pd.DataFrame:
    return pd.read_csv(cwd / "outputs/sweeps/latest/results.csv").set_index("config_hash").sort_index()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The sweep trained together, and one run after another."""
    cwd = tmp_path_factory.mktemp("fused")
    places = [cwd / "auto", cwd / "never"]
    said = []
    for place, more in zip(places, ([], ["sweep.fuse=never"]), strict=True):
        place.mkdir()
        said.append(call([*SWEEP, *more], place))
    assert [done.returncode for done in said] == [1, 1], said
    return *places, *said


def test_the_rows_are_those_of_runs_alone(both):
    together, alone = table(both[0]), table(both[1])
    assert "24 runs differ in their heads alone: they are trained together." in both[2].stderr
    assert "trained together" not in both[3].stderr and "Traceback" not in both[2].stderr
    assert (together.index == alone.index).all() and len(together) == 24
    done = together["status"] == "done"
    assert done.sum() == 16 and (together["status"] == alone["status"]).all()
    assert (together.loc[done, "fused_with"] == 24).all() and alone["fused_with"].isna().all()
    assert (together["error"].fillna("") == alone["error"].fillna("")).all()
    for name in together.columns.difference(OTHERWISE):
        one, other = together[name], alone[name]
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)
        else:
            assert one.astype(str).tolist() == other.astype(str).tolist(), name


def test_so_are_histories_predictions_and_models(both):
    folders = [path.parent for path in (both[0] / "outputs/sweeps/latest").glob("*/predictions.parquet")]
    assert len(folders) == 16
    for mine in folders:
        theirs = both[1] / "outputs/sweeps/latest" / mine.name
        one, other = pd.read_csv(mine / "history.csv"), pd.read_csv(theirs / "history.csv")
        assert one.drop(columns="value").astype(str).equals(other.drop(columns="value").astype(str))
        np.testing.assert_allclose(one["value"], other["value"], rtol=1e-5, atol=1e-5)
        one, other = (pd.read_parquet(path / "predictions.parquet") for path in (mine, theirs))
        np.testing.assert_allclose(np.stack(one["output"]), np.stack(other["output"]), rtol=1e-4, atol=1e-5)
        (one, told), (other, also) = read_model(mine), read_model(theirs)
        assert one.keys() == other.keys() and told == also
        for name, tensor in one.items():
            np.testing.assert_allclose(tensor, other[name], rtol=1e-5, atol=1e-5, err_msg=name)
        one, other = (json.loads((path / "run.json").read_text()) for path in (mine, theirs))
        assert one.keys() == other.keys() and one["best_step"] == other["best_step"]
        assert one["stopped_early"] == other["stopped_early"]
        texts = [(path / "config.yaml").read_text() for path in (mine, theirs)]
        assert texts[0] == texts[1].replace("fuse: never", "fuse: auto")
        assert "became" not in (mine / "log.txt").read_text()
        said = (mine / "log.txt").read_text()
        assert "Its head is trained together with those of 23 other runs." in said and "train, 359 val" in said


def test_a_run_that_fails_says_so_in_its_own_folder(both):
    rows = table(both[0])
    for key, error in rows.loc[rows["status"] == "failed", "error"].items():
        folder = both[0] / "outputs/sweeps/latest" / key
        assert error in (folder / "log.txt").read_text()
        assert (folder / "history.csv").is_file() and json.loads((folder / "run.json").read_text())["plan"]


def test_what_is_done_is_not_run_again_and_what_failed_is(both):
    again = call([*SWEEP, "sweep.dry_run=true"], both[0])
    assert "24 run(s): 8 to do, 16 there already." in again.stdout
    assert "8 runs differ in their heads alone: they are trained together." in again.stderr


def test_the_cost_is_shared(both):
    rows = table(both[0])
    done = rows[rows["status"] == "done"]
    assert (done["train_seconds"] > 0).all() and done["train_seconds"].sum() < 10


def test_a_folder_stores_its_head_and_one_file_the_backbone(both, tmp_path):
    sweep = both[0] / "outputs/sweeps/latest"
    (shared,) = (sweep / "backbones").iterdir()
    mine = next(sweep.glob("*/predictions.parquet")).parent
    whole = both[1] / "outputs/sweeps/latest" / mine.name
    small, large = ((path / "model.safetensors").stat().st_size for path in (mine, whole))
    assert small < large - 0.9 * shared.stat().st_size

    moved = tmp_path / "moved"
    shutil.copytree(mine, moved)
    with pytest.raises(ConfigError, match=rf"trained together with others.*{shared.name} of the run's sweep there"):
        read_model(moved)
    shutil.copy(shared, moved)
    assert read_model(moved)[0].keys() == read_model(mine)[0].keys()
    (moved / shared.name).write_bytes(shared.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ConfigError, match="its content is not what its name says"):
        read_model(moved)
    (moved / shared.name).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="is broken"):
        read_model(moved)


def test_other_commands_take_such_a_run_like_any(both, main, tmp_path):
    mine = next((both[0] / "outputs/sweeps/latest").glob("*/predictions.parquet")).parent
    image = tmp_path / "digit.png"
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)).save(image)
    found = [main("predict", str(path), str(image)) for path in (mine, both[1] / "outputs/sweeps/latest" / mine.name)]
    assert [one.code for one in found] == [0, 0] and found[0].out.splitlines()[0] == found[1].out.splitlines()[0]
    exported = main("export", str(mine), "--format", "safetensors", "--out", str(tmp_path / "out"))
    assert exported.code == 0, exported.err
    alone = main("train", "source=file", f"source.path={mine}/model.safetensors")
    assert alone.code == 2 and "holds a head alone" in alone.err and f"source=run source.path={mine}" in alone.err
    on = main("train", "source=run", f"source.path={mine}", "train.epochs=1", "progress=false")
    assert on.code == 0 and "100% of the backbone's parameters loaded" in on.err


# --- faults ---------------------------------------------------------------------------------------------------------------

LONG = ["train", "-m", "optimizer.lr=1e-3,1e-2", "seed=0,1", "train.epochs=400", "source.train.epochs=1"]
LONG += ["strategy=linear_probe", "train.evaluate_every=10%", "hardware.workers=1"]


def begun(cwd: Path, process: subprocess.Popen) -> int:
    """Starts to train: the process id that all runs say they are trained by."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        found = {}
        for path in (cwd / "outputs/sweeps").glob("*/*/run.json"):
            if not path.parent.parent.is_symlink() and "running" in (said := path.read_text()):
                found[path] = json.loads(said)["process"]["pid"]
        if len(found) == 4:
            (pid,) = set(found.values())
            time.sleep(0.3)
            return pid
        time.sleep(0.02)
    raise AssertionError(process.communicate(timeout=10))


def started(cwd: Path) -> subprocess.Popen:
    return subprocess.Popen([TLMTL, *LONG], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_process_that_is_killed_has_its_runs_made_alone(tmp_path):
    process = started(tmp_path)
    os.kill(begun(tmp_path, process), signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "4 run(s) that were trained together are run alone: the process ended by SIGKILL" in said
    rows = table(tmp_path)
    assert (rows["status"] == "done").all() and rows["fused_with"].isna().all()


def test_ctrl_c_ends_all_and_the_same_command_makes_them(tmp_path):
    process = started(tmp_path)
    pid = begun(tmp_path, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert not psutil.pid_exists(pid)
    rows = table(tmp_path)
    assert (rows["status"] == "interrupted").all() and len(rows) == 4
    done = call(LONG, tmp_path)
    assert done.returncode == 0 and "4 runs differ in their heads alone" in done.stderr
    assert (table(tmp_path)["fused_with"] == 4).all()


def test_a_broken_bank_has_its_runs_made_alone(main, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, importlib.abc\n"
        "class Break(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'tlmtl.bank.fit': raise MemoryError('on purpose')\n"
        "sys.meta_path.insert(0, Break())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = call(["train", "-m", "seed=0,1", "hardware.workers=1", *QUICK], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 run(s) that were trained together are run alone: MemoryError: on purpose" in done.stderr
    assert (table(tmp_path)["status"] == "done").all()


def test_runs_on_other_data_are_not_trained_together(main, tmp_path):
    """Neither are their rows those of the first one's split or source."""
    words = ["train", "-m", "seed=0,1", "dataset.split_seed=${seed}", *QUICK]
    assert main(*words).code == 0
    rows = table(tmp_path)
    assert rows["data_hash"].nunique() == 2 and rows["fused_with"].isna().all()
    assert "2 run(s): 0 to do" in main(*words).err  # each is found again as what it is


@pytest.mark.slow
def test_further_test_sets_are_measured_as_each_run_would(main, tmp_path):
    """What a regression's unit is follows from the labelled examples."""
    random = np.random.default_rng(0)
    from PIL import Image

    for name in ("data", "also"):
        lines = []
        for i in range(60):
            shade = int(random.integers(0, 255))
            noise = random.integers(0, 6, (8, 8))
            Image.fromarray((np.full((8, 8), shade) + noise).clip(0, 255).astype(np.uint8)).save(
                tmp_path / f"{name}{i}.png"
            )
            lines.append(f"{name}{i}.png,{shade * 1.5 + 0.5}")
        (tmp_path / f"{name}.csv").write_text("\n".join(["image,shade", *lines]))
    words = ["train", "-m", "dataset=table", "dataset.path=data.csv", "dataset.label_fraction=0.2,1.0", *QUICK]
    words += ["evaluate.also=[also.csv]", "hardware.workers=1"]
    found = []
    for more in ([], ["sweep.fuse=never", "output.root=other"]):
        said = main(*words, *more)
        assert said.code == 0, said.err
        root = "outputs" if not more else "other"
        rows = pd.read_csv(tmp_path / root / "sweeps/latest/results.csv")
        found.append(rows.set_index(["config_hash", "dataset"]).sort_index())
    assert (found[0]["fused_with"] == 2).all() and len(found[0]) == 4
    np.testing.assert_allclose(found[0]["test/mae"], found[1]["test/mae"], rtol=1e-4)


def test_limits_of_one_run_end_a_unit_and_none_of_its_runs(tmp_path):
    items = [SimpleNamespace(folder=tmp_path / name, cfg=None) for name in "ab"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a/run.json").write_text('{"status": "done"}')
    one = Running(items, SimpleNamespace(pid=os.getpid(), exitcode=-9), None, [{}, {}])
    one.limit = "took longer than sweep.time_limit=2s"
    assert one.outcome(0, False) == ("done", "", False)
    assert one.outcome(1, False) == ("apart", one.limit, False)
    assert one.outcome(1, True)[0] == "interrupted"
    one.hear("ended", 1, ["failed", "The loss became nan", False])
    assert one.outcome(1, False) == ("failed", "The loss became nan", False)


@pytest.mark.slow
def test_a_folder_that_is_in_use_costs_its_own_run(tmp_path):
    words = ["train", "-m", "seed=0,1,2", "hardware.workers=1", *QUICK]
    assert call(words, tmp_path).returncode == 0
    runs = sorted(p.parent for p in (tmp_path / "outputs/sweeps/latest").glob("*/results.csv"))
    from filelock import FileLock

    with FileLock(runs[0] / ".lock"):
        done = call([*words, "sweep.rerun=all"], tmp_path)
    assert done.returncode == 1 and "is in use by another process" in done.stderr
    assert "3 runs differ in their heads alone" in done.stderr and "1 of 3 runs failed" in done.stderr


# --- which runs -----------------------------------------------------------------------------------------------------------


def head(*words: str, most: list[str] = QUICK) -> Head:
    cfg = with_source(package.compose([*most, *words]))
    return head_of(assemble(cfg)).of(identity.backbone_id(cfg), cfg.seed)


@pytest.mark.slow
def test_what_a_unit_may_differ_in():
    first = head()
    assert first.why == "" and not first.seeded
    for words in (
        ["seed=3"], ["optimizer.lr=0.5"], ["optimizer.weight_decay=0.3"], ["head.dropout=0.2"], ["head.init=default"],
        ["train.epochs=9"], ["dataset.labels_per_class=3"], ["schedule=cosine"], ["train.clip=1"],
        ["train.early_stopping=2"], ["dataset.subset_seed=8"],
    ):  # fmt: skip
        assert head(*words).key == first.key and not head(*words).why, words
    assert head("seed=1", "source.seed=${seed}").key != head("source.seed=${seed}").key
    assert head("seed=1", "dataset.split_seed=${seed}").key != head("dataset.split_seed=${seed}").key
    for words in (
        ["train.batch_size=16"], ["optimizer=sgd"], ["source.seed=1"], ["dataset.split_seed=1"], ["+optimizer.betas=[0.8,0.9]"],
        ["train.class_weights=balanced"], ["hardware.threads=2"], ["output.cache_mb=1"],
    ):  # fmt: skip
        assert head(*words).key != first.key, words


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["strategy=finetune_all"], fuse.TRAINS),
        (["strategy=logistic"], "its head is found without the loop"),
        (["dataset=two_digits", "tasks=all"], "it has several tasks or data sets"),
        (["head.hidden=[8]"], "its head has hidden layers"),
        (["sharing=none"], "sharing=none"),
        (["+optimizer.maximize=true"], "its optimizer is AdamW with maximize"),
        (["optimizer._target_=torch.optim.Adam", "+optimizer.decoupled_weight_decay=true"], "for which AdamW stands"),
        (["hardware=fast"], "its format is chosen by timing"),
        (["logger._target_=tlmtl.logger.tensorboard.TensorBoard"], "it has a logger"),
        (["train.ema=0.9"], "an average of its parameters"),
        (["optimizer._target_=torch.optim.RMSprop"], "its optimizer is RMSprop, which is none of SGD, Adam, AdamW"),
        (["hardware.precision=bf16-mixed"], "it is not in 32 bits"),
        (["output.keep_checkpoint=true"], "its checkpoint is to be kept"),
        (["dataset.augment=flip"], "with dataset.augment=flip every epoch sees other images"),
        (["features.cache=never"], "features.cache=never"),
    ],
)
def test_what_is_trained_alone(words, why):
    assert why in head(*words).why


def test_a_random_backbone_is_of_its_seed():
    found = head("source=none", "strategy.init=random", most=["strategy=linear_probe"])
    assert not found.why and found.seeded and found.of("k", 1).key != found.of("k", 2).key
    assert head().of("k", 1).key == head().of("k", 2).key


def jobs(count: int, size=(64, 10), steps=200, why="", checkpoint=False) -> list:
    known = Head(why, size, 32, 100, key="k")
    cfg = SimpleNamespace(dataset={}, seed=0, head=SimpleNamespace(dropout=0.0))
    every = steps if isinstance(steps, list) else [steps] * count
    return [
        SimpleNamespace(key=str(i), head=known, steps=every[i], cfg=cfg, has_checkpoint=checkpoint, draws="")
        for i in range(count)
    ]


def sizes(found) -> list[int]:
    return [len(unit) for unit in found]


def test_units_pay_or_are_not_made(caplog):
    caplog.set_level("INFO", "tlmtl")
    assert sizes(units(jobs(24), 1, Limits())) == [24]
    assert caplog.messages == ["24 runs differ in their heads alone: they are trained together."]
    caplog.clear()
    assert sizes(units(jobs(24), 1, Limits(fuse="never"))) == [1] * 24
    assert sizes(units(jobs(1), 1, Limits())) == [1] and not caplog.messages
    # Every run on a core of its own is done before all of them are on one.
    large = jobs(26, (2048, 1000), 100_000)
    assert sizes(units(large, 26, Limits())) == [1] * 26
    assert caplog.messages == [
        "26 run(s) that differ from others in their heads alone are trained alone: together does not pay, or not within the "
        "memory and half of sweep.time_limit."
    ]
    assert sum(sizes(units(jobs(64, steps=50_000), 2, Limits()))) == 64
    for workers in (1, 2, 8):
        for count in (2, 3, 17, 64):
            for one in (jobs(count), jobs(count, (1280, 2), 1000), jobs(count, (512, 100), 1000)):
                found = units(one, workers, Limits())
                assert sorted(item.key for unit in found for item in unit) == sorted(item.key for item in one)
                alone = fuse._makespan([fuse._seconds([item]) for item in one], workers)
                assert fuse._makespan([fuse._seconds(unit) for unit in found], workers) <= alone


def test_why_runs_are_alone_is_said_once(caplog):
    caplog.set_level("INFO", "tlmtl")
    mixed = [*jobs(3), *jobs(2, why="its head has hidden layers")]
    for number, item in enumerate(mixed):
        item.key = str(number)
    assert sizes(units(mixed, 1, Limits())) == [3, 1, 1]
    assert caplog.messages[1:] == [
        "2 run(s) that differ from others in their heads alone are trained alone: its head has hidden layers."
    ]
    caplog.clear()
    units(jobs(2, why=fuse.TRAINS), 1, Limits())
    units(jobs(2, checkpoint=True), 1, Limits())
    assert caplog.messages == [
        "2 run(s) that differ from others in their heads alone are trained alone: it goes on from a checkpoint."
    ]


def test_a_bank_too_large_for_memory_is_split(caplog):
    caplog.set_level("INFO", "tlmtl")
    found = units(jobs(40, (2048, 1000), 10), 1, Limits(megabytes=1500))
    assert len(found) > 1 and max(sizes(found)) < 40 and sum(sizes(found)) == 40
    assert caplog.messages == [f"40 runs differ in their heads alone: they are trained together in {len(found)} parts."]


def test_long_runs_do_not_carry_short_ones_along():
    lengths = [200] * 40 + [20_000]
    found = units(jobs(41, (512, 100), lengths), 1, Limits())
    assert sizes(found) == [40, 1]
    assert sizes(units(jobs(8, steps=[100, 120, 140, 160] * 2), 1, Limits())) == [8]


def test_no_unit_takes_longer_than_one_run_may():
    assert sizes(units(jobs(64, (512, 100), 2000), 1, Limits())) == [64]
    found = units(jobs(64, (512, 100), 2000), 1, Limits(seconds=20))
    assert len(found) > 1 and all(fuse._seconds(unit) < 10 for unit in found if len(unit) > 1)


# --- configs --------------------------------------------------------------------------------------------------------------


def test_a_job_that_differs_in_numbers_is_composed_like_any_other():
    whole = []

    def compose(overrides, number):
        whole.append(number)
        return package.compose(overrides)

    made = Composer(compose)
    lists = [
        [f"optimizer.lr={lr}", "strategy=linear_probe", f"seed={seed}", f"dataset.labels_per_class={k}", f"train.epochs={n}"]
        for lr in (1e-3, "3e-1", 1) for seed in (0, 4) for k in (5, 7) for n in (3, 2.5)
    ]  # fmt: skip
    lists += [
        ["seed=1", "strategy=finetune_all"],
        ["strategy=finetune_all", "seed=2"],
        ["train.epochs=500st", "seed=0"],
    ]
    lists += [["optimizer.lr=1e-3", "optimizer.lr=1e-2"], ["+strategy.terms.x=1"]][:1]
    for number, overrides in enumerate(lists):
        found, wanted = made(overrides, number), package.compose(overrides)
        assert found == wanted and found._metadata.flags == wanted._metadata.flags
        assert package.identity.config_hash(found) == package.identity.config_hash(wanted)
    assert whole == [0, 24, 26, 27]


def test_what_a_data_set_fills_in_is_composed_by_hydra():
    """The parts of a joint data set have their labels from it; a copy of another job's config would keep that one's."""
    made = Composer(lambda overrides, _: package.compose(overrides))
    for overrides in (
        ["dataset=joint", "dataset.parts=[digits,mnist5k]", "seed=1"],
        ["dataset=joint", "dataset.parts=[digits,mnist5k]", "seed=2"],
    ):
        assert made(overrides, 0) == package.compose(overrides)
    assert not made.known


@pytest.mark.parametrize("wrong", ["seed=-1", "seed=1.5", "optimizer.lr=fast", "train.epochs=many", "seed=true"])
def test_a_wrong_number_is_told_as_ever(wrong, main, tmp_path):
    key, value = wrong.split("=")
    first = {"seed": "0", "optimizer.lr": "0.1", "train.epochs": "3"}[key]
    said = main("train", "-m", "strategy=linear_probe", f"{key}={first},{value}")
    assert said.code == 2 and key in said.err and "Traceback" not in said.err
    assert not (tmp_path / "outputs/sweeps/latest").exists()
