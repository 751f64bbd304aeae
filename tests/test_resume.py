"""A run that was stopped at any step ends with the bytes of one that was not."""

import csv
from pathlib import Path

import pytest
import torch

import tlmtl
from tlmtl import api, job, pretrain
from tlmtl.columns import MEASURED
from tlmtl.presets import packaged_folder
from tlmtl.progress import Silent
from tlmtl.results import RunFolder

# A solver's run has no steps to stop at: it begins again.
STRATEGIES = sorted(p.stem for p in (packaged_folder() / "strategy").glob("*.yaml") if "\nsolver:" not in p.read_text())
QUICK = [
    "train.epochs=4",
    "train.batch_size=20",
    "train.evaluate_every=2st",
    "train.checkpoint_every=3st",
    "progress=false",
]


class StopAt(Silent):
    """Ctrl-C at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, step, losses):
        if step == self.at:
            raise KeyboardInterrupt


def compose(*overrides: str):
    return pretrain.with_source(tlmtl.compose([*QUICK, "source.train.epochs=1", *overrides]))


def decided(folder: Path) -> list[dict[str, str]]:
    """The rows of a run without what was measured and the run's name."""
    rows = list(csv.DictReader((folder / "results.csv").open()))
    return [{k: v for k, v in row.items() if k not in [*MEASURED, "run_id"]} for row in rows]


def parameters(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stopped_and_resumed_equals_uninterrupted(strategy, tmp_path):
    more = ["train.ema=0.9", "head.dropout=0.3", "dataset.augment=digits"] if strategy != "from_scratch" else []
    cfg = compose(f"strategy={strategy}", *more)
    job.execute(cfg, tmp_path / "whole", "whole")
    for at in (1, 5, 11):
        folder = tmp_path / f"stopped{at}"
        with pytest.raises(KeyboardInterrupt):
            job.execute(cfg, folder, "stopped", StopAt(at))
        assert decided(folder)[0]["status"] == "interrupted"
        torch.manual_seed(at)  # whatever else the process drew in between
        job.execute(cfg, folder, "stopped")
        assert decided(folder) == decided(tmp_path / "whole"), f"stopped at step {at}"
        assert parameters(folder) == parameters(tmp_path / "whole"), f"stopped at step {at}"
    assert len(decided(tmp_path / "whole")) == (3 if strategy in ("multitask", "separate") else 1)


def test_the_same_command_goes_on_with_an_interrupted_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = compose("strategy=finetune_all")
    whole = api.run(cfg)
    monkeypatch.setattr(api, "choose", lambda wanted, label: StopAt(8))
    with pytest.raises(KeyboardInterrupt):
        api.run(cfg)
    stopped = (tmp_path / "outputs/runs/latest").resolve()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    result = api.run(cfg)
    assert result.folder.resolve() == stopped
    assert "Going on after step 6 of 12" in (stopped / "log.txt").read_text()
    assert decided(stopped) == decided(whole.folder)
    assert not (stopped / "checkpoint").exists()
    assert api.run(cfg).folder.resolve() != stopped  # a finished run is not gone on with


def test_resume_takes_the_folders_own_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "choose", lambda wanted, label: StopAt(4))
    with pytest.raises(KeyboardInterrupt):
        api.run(compose("strategy=staged", "seed=3"))
    monkeypatch.setattr(api, "choose", lambda wanted, label: Silent())
    result = api.run(tlmtl.compose(["resume=outputs/runs/latest"]))
    assert result.rows["strategy"].tolist() == ["staged"] and result.rows["seed"].tolist() == [3]
    assert result.rows["status"].tolist() == ["done"]
    with pytest.raises(tlmtl.errors.ConfigError, match="finished: there is nothing to resume"):
        api.run(tlmtl.compose(["resume=outputs/runs/latest"]))


def test_an_unreadable_checkpoint_means_starting_again(tmp_path):
    cfg = compose("strategy=finetune_all")
    job.execute(cfg, tmp_path / "whole", "whole")
    with pytest.raises(KeyboardInterrupt):
        job.execute(cfg, tmp_path / "broken", "broken", StopAt(8))
    for path in RunFolder(tmp_path / "broken").checkpoints():
        path.write_bytes(path.read_bytes()[:1000])
    job.execute(cfg, tmp_path / "broken", "broken")
    said = (tmp_path / "broken/log.txt").read_text()
    assert "No checkpoint of this run can be used: starting from the beginning" in said
    assert decided(tmp_path / "broken") == decided(tmp_path / "whole")


def test_a_checkpoint_of_other_data_is_not_gone_on_with(tmp_path):
    """The same config, but the folder's files changed between the kill and the second try."""
    import numpy as np
    from PIL import Image

    def fill(swapped: bool) -> None:
        for name, value in (("dark", 40), ("light", 200)):
            place = tmp_path / "images" / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(12):
                pixels = np.full((16, 16), 240 - value if swapped else value, np.uint8)
                pixels[0, i] = 0
                Image.fromarray(pixels).save(place / f"{i}.png")

    fill(swapped=False)
    words = [
        "dataset=folder",
        f"dataset.root={tmp_path / 'images'}",
        "strategy=from_scratch",
        *QUICK,
        "train.epochs=12",
    ]
    with pytest.raises(KeyboardInterrupt):
        job.execute(tlmtl.compose(words), tmp_path / "run", "run", StopAt(8))
    fill(swapped=True)
    job.execute(tlmtl.compose(words), tmp_path / "run", "run")
    said = (tmp_path / "run/log.txt").read_text()
    assert "The checkpoint was made with another data_hash, subset_hash: starting from the beginning" in said
    job.execute(tlmtl.compose(words), tmp_path / "fresh", "fresh")
    assert decided(tmp_path / "run") == decided(tmp_path / "fresh")


def test_resume_is_of_one_run(tmp_path, monkeypatch, capsys):
    from tlmtl import cli

    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "resume=outputs/runs/latest", "-m"]) == 2
    assert "goes on with one run. Found -m" in capsys.readouterr().err


def test_a_row_names_the_optimizer_that_ran(tmp_path):
    job.execute(compose("strategy=linear_probe", "optimizer._target_=torch.optim.RAdam"), tmp_path / "run", "run")
    assert decided(tmp_path / "run")[0]["optimizer"] == "RAdam"


def test_the_first_metric_of_each_task_stays_before_its_others(tmp_path):
    from tlmtl.results import read_rows, write_rows

    write_rows(
        tmp_path / "results.csv",
        [
            {"task": "a", "test/accuracy": 1, "test/macro_f1": 2, "test/loss": 3},
            {"task": "b", "test/mean_average_precision": 1, "test/macro_f1": 2, "test/loss": 3},
            {"task": "c", "test/mae": 1, "test/r2": 2, "test/loss": 3},
        ],
    )
    (row, *_) = read_rows(tmp_path / "results.csv")
    found = [name.removeprefix("test/") for name in row if name.startswith("test/")]
    assert found.index("mean_average_precision") < found.index("macro_f1") and found.index("mae") < found.index("r2")
    assert found.index("accuracy") < found.index("macro_f1") and found[-1] == "loss"
