"""Trackers: what TensorBoard and Weights & Biases stored is read back and compared with the run's own files."""

import csv
import json
import os
import signal
import struct
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import TLMTL, nothing_written, refused, write

import tlmtl
from tlmtl import job
from tlmtl.columns import MEASURED
from tlmtl.identity import config_hash, sweep_name
from tlmtl.progress import Silent

QUICK = ["strategy=from_scratch", "train.epochs=4", "train.evaluate_every=2st", "train.checkpoint_every=3st"]
LOGGERS = ("tensorboard", "wandb")


class StopAt(Silent):
    """Ctrl-C at a step, the second one."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, step, losses):
        if step == self.at:
            raise KeyboardInterrupt


def run(folder: Path, *overrides: str, stop: int | None = None) -> Path:
    cfg = tlmtl.compose([*QUICK, *overrides])
    if stop is None:
        job.execute(cfg, folder, "20260101-000000_x_abc")
        return folder
    with pytest.raises(KeyboardInterrupt):
        job.execute(cfg, folder, "20260101-000000_x_abc", StopAt(stop))
    return folder


def decided(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "results.csv").open()))
    return [{k: v for k, v in row.items() if k not in [*MEASURED, "git_sha"]} for row in rows]


def history(folder: Path) -> dict[tuple[str, int], float]:
    """By name and step, what history.csv says."""
    table = pd.read_csv(folder / "history.csv", keep_default_na=False)
    names = ["/".join(filter(None, row)) for row in zip(table.split, table.name, table.task, strict=True)]
    return dict(zip(zip(names, table.step, strict=True), map(float, table.value), strict=True))


def figures(folder: Path) -> dict[str, float]:
    return {
        f"{name}/{row['task']}": float(value)
        for row in decided(folder)
        for name, value in row.items()
        if name.startswith("test/") and value
    }


def tensorboard(folder: Path) -> tuple[dict[tuple[str, int], float], str]:
    """What the event files hold: numbers by name and step (each once), and the hyper-parameters as text."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = [(tag, event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    numbers = {(tag, step): value for tag, step, value in found}
    assert len(numbers) == len(found), "a step is there twice"
    return numbers, str(events.summary_metadata)


def wandb_records(folder: Path) -> list:
    """The records of the one offline run in `folder`, in the framing of LevelDB's log after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    (path,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    content, at, part, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # the rest of a block
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        part += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


def wandb(folder: Path) -> tuple[dict[tuple[str, int], float], str]:
    """What an offline run holds: numbers by name and step (each once), and its description as text."""
    numbers: dict[tuple[str, int], float] = {}
    about = ""
    for record in wandb_records(folder):
        if record.HasField("run"):
            about = str(record.run)
        items = record.history.item if record.HasField("history") else []
        values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        for name, value in values.items():
            if not name.startswith("_"):
                assert (name, values["_step"]) not in numbers, "a step is there twice"
                numbers[name, values["_step"]] = value
        if record.HasField("summary"):
            for item in record.summary.update:
                if (item.key or "/".join(item.nested_key)).startswith("test/"):
                    numbers[item.key or "/".join(item.nested_key), 8] = json.loads(item.value_json)
    return numbers, about


READ = {"tensorboard": tensorboard, "wandb": wandb}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A run without a tracker."""
    return run(tmp_path_factory.mktemp("plain") / "run", "tasks=[digit,ink]")


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_tracker_holds_the_history_the_test_figures_and_the_config(logger, tmp_path, plain, capfd):
    folder = run(tmp_path / "run", "tasks=[digit,ink]", f"logger={logger}")
    said = capfd.readouterr()
    assert said.out == "" and "wandb" not in said.err and "failed" not in (folder / "log.txt").read_text()
    assert decided(folder) == decided(plain)  # a tracker changes nothing
    assert (folder / "history.csv").read_bytes() == (plain / "history.csv").read_bytes()
    numbers, about = READ[logger](folder)
    expected = history(folder) | {(name, 8): value for name, value in figures(folder).items()}
    epochs = {key for key in numbers if key[0] == "epoch"}
    assert {step for _, step in epochs} == {2, 4, 6, 8}
    assert numbers.keys() - epochs == expected.keys() and len(expected) > 40
    for key, value in expected.items():
        assert numbers[key] == pytest.approx(value, rel=1e-6), key
    for word in ("train.epochs", "weighting"):
        assert word.split(".")[-1] in about
    if logger == "wandb":
        group = json.loads((folder / "run.json").read_text())["group_id"]
        assert f'run_group: "{group}"' in about and 'tags: "from_scratch"' in about and 'project: "tlmtl"' in about


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_resumed_run_has_each_step_once(logger, tmp_path, plain):
    folder = run(tmp_path / "run", "tasks=[digit,ink]", f"logger={logger}", stop=5)  # the last checkpoint is of step 3
    run(folder, "tasks=[digit,ink]", f"logger={logger}")
    assert decided(folder) == decided(plain)
    numbers, _ = READ[logger](folder)
    wanted = history(plain) | {(name, 8): value for name, value in figures(plain).items()}
    assert {key for key in numbers if key[0] != "epoch"} == wanted.keys()
    assert all(numbers[key] == pytest.approx(value, rel=1e-6) for key, value in wanted.items())


def test_a_tracker_is_no_part_of_what_a_run_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with_it, without = tlmtl.compose(["logger=tensorboard"]), tlmtl.compose([])
    assert config_hash(with_it) == config_hash(without) and sweep_name(with_it, ["seed"]) == sweep_name(
        without, ["seed"]
    )
    assert list(with_it.composed.overrides) == []


def test_nothing_of_a_tracker_is_imported_unless_asked_for(tlmtl, tmp_path):
    import sys

    code = (
        "import sys, tlmtl.job, tlmtl.assemble, tlmtl.composition\n"
        "sys.exit(str([name for name in ('tensorboard', 'wandb') if name in sys.modules]))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert said.stderr.strip() == "[]"


# A tracker of one's own, and one that fails

OWN = """
from tlmtl.logger.base import Tracker


class Lines(Tracker):
    def __init__(self, path: str, fails: str = "") -> None:
        self.path, self.fails = path, fails

    def _say(self, what, text):
        if what == self.fails:
            raise OSError("the network is down\\nlong story")
        with open(self.path, "a") as file:
            print(text, file=file)

    def open(self, run):
        self._say("open", f"{run.name} {run.strategy} {run.config['seed']}")
        return 0

    def log(self, step, values):
        self._say("log", f"{step} {values['val/accuracy/digit']}")

    def close(self, done, step, results):
        self._say("close", f"{done} {step} {sorted(results)}")
"""


@pytest.fixture
def own(main, tmp_path):
    write(tmp_path / "my_loggers.py", OWN)
    write(tmp_path / "conf/logger/lines.yaml", "# lines\n_target_: my_loggers.Lines\npath: said.txt\n")
    return lambda *words: main("train", *QUICK, "allow=[my_loggers]", "logger=lines", "progress=false", *words)


def test_a_tracker_of_ones_own_is_a_file_and_a_preset(own, tmp_path):
    assert own().code == 0
    first, *steps, last = (tmp_path / "said.txt").read_text().splitlines()
    assert first.endswith("from_scratch 0") and [line.split()[0] for line in steps] == ["2", "4", "6", "8"]
    assert last == "True 8 ['test/accuracy/digit', 'test/loss/digit', 'test/macro_f1/digit']"


@pytest.mark.parametrize("where", ["open", "log", "close"])
def test_a_tracker_that_fails_costs_a_line_and_no_run(own, tmp_path, where):
    said = own(f"+logger.fails={where}")
    assert said.code == 0 and "Traceback" not in said.all
    assert said.err.count("Lines failed") == 1 and "OSError: the network is down\n" in said.err
    assert decided(tmp_path / "outputs/runs/latest")[0]["status"] == "done"


def test_a_server_that_does_not_answer(main, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setattr("tlmtl.logger.weights_and_biases.WAIT", 2.0)
    said = main("train", *QUICK, "logger=wandb", "logger.mode=online", "progress=false")
    assert said.code == 0 and "WeightsAndBiases failed and is left out" in said.err, said.all
    kept = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert not any(b"0123456789" * 4 in path.read_bytes() for path in kept)  # the key is in no file


# Refused before anything starts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logger=wandb", "logger.mode=onlin"], ["'logger.mode'", "Did you mean 'online'?"]),
        (["logger=wandb", "logger.mode=online"], ["'logger.mode=online'", "wandb login", "logger.mode=offline"]),
        (["logger=wandb", "logger.project=a/b"], ["'logger.project'", "a/b"]),
        (["logger=wandb", "logger.project="], ["'logger.project'"]),
        (["logger=wandb", "logger.tags=['']"], ["'logger.tags'"]),
        (["logger=wandb", "+logger.api_key=x"], ["'logger.api_key'"]),
        (["logger=tensorbord"], ["no logger 'tensorbord'", "Did you mean 'tensorboard'?"]),
        (["logger._target_=os.system"], ["'logger._target_'", "os.system"]),
        (["logger=null"], ["'logger'", "tlmtl list logger"]),
    ],
)
def test_settings_that_will_not_do(main, tmp_path, monkeypatch, words, said):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    refused(main("train", "strategy=from_scratch", *words), *said)
    nothing_written(tmp_path)


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_package_that_is_not_installed(main, tmp_path, monkeypatch, logger):
    monkeypatch.setattr("tlmtl.logger.base.find_spec", lambda name: None)
    refused(
        main("train", "strategy=from_scratch", f"logger={logger}"), f"logger={logger}", "pip install 'tlmtl[loggers]'"
    )
    nothing_written(tmp_path)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_run_and_wandb_with_it(tmp_path, which):
    words = [TLMTL, "train", "strategy=from_scratch", "train.epochs=100000", "logger=wandb", "progress=false"]
    env = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # this process's own
    child = subprocess.Popen(
        words, cwd=tmp_path, env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("run-*.wandb")):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        helpers = psutil.Process(child.pid).children(recursive=True)
        os.killpg(child.pid, which) if which == signal.SIGINT else child.kill()  # a terminal's Ctrl-C reaches the group
        assert child.wait(60) == (130 if which == signal.SIGINT else -signal.SIGKILL)
        _gone, alive = psutil.wait_procs(helpers, timeout=30)
        assert not alive
        assert b"Traceback" not in child.stdout.read()
    finally:
        child.kill()
        child.wait()
