"""Launchers other than the pool: the same folders, rows and table, whoever runs the jobs."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import fake_slurm
import psutil
import pytest
from conftest import TLMTL, nothing_written, refused, write

from tlmtl.columns import MEASURED
from tlmtl.errors import ConfigError

BAD = """
import os, signal
from tlmtl.terms.base import Term

class Bad(Term):
    def __init__(self, how: str = "no"):
        super().__init__()
        self.how = how

    def forward(self, step):
        if self.how == "raise":
            raise ValueError("on purpose")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return step.outputs["target"].features.sum() * 0
"""
QUICK = ["strategy=linear_probe", "train.epochs=2", "source.train.epochs=1"]
THREE = ["train", "-m", "allow=[bad_terms]", "+term.bad._target_=bad_terms.Bad", "+term.bad.how=no,raise,kill", *QUICK]
LONG = ["train", "-m", "seed=0,1", "strategy=from_scratch", "train.epochs=4000", "train.checkpoint_every=1%"]
LOCAL = ["joblib", *(pytest.param(name, marks=pytest.mark.slow) for name in ("submitit_local", "ray"))]


def needs(launcher: str) -> None:
    for name in {"ray": ["ray", "hydra_plugins.hydra_ray_launcher"]}.get(launcher, ["submitit", "joblib"]):
        pytest.importorskip(name)


def rows(cwd: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((cwd / "outputs/sweeps/latest/results.csv").open()))


def decided(cwd: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in [*MEASURED, "run_id"]} for row in rows(cwd)]


def folders(cwd: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(cwd)) for path in cwd.glob("outputs/sweeps/*/*/run.json"))


def statuses(cwd: Path) -> set[str]:
    return {json.loads(path.read_text())["status"] for path in cwd.glob("outputs/sweeps/*/*/run.json")}


def until(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """The sweep of three, one of which raises and one is killed, run by the pool."""
    cwd = tmp_path_factory.mktemp("pool")
    write(cwd / "bad_terms.py", BAD)
    done = subprocess.run([str(TLMTL), *THREE], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return cwd


def same_as(pool: Path, cwd: Path, said) -> None:
    assert said.code == 1 and "Traceback" not in said.all, said.all
    assert decided(cwd) == decided(pool)
    assert [row["status"] for row in rows(cwd)] == ["done", "failed", "failed"]
    assert [row["error"] for row in rows(cwd)][1] == "ValueError: on purpose"
    assert "SIGKILL" in [row["error"] for row in rows(cwd)][2]
    assert folders(cwd) == folders(pool)
    assert "3 run(s): 3 to do" in said.err and "[3/3]" in said.err and "2 of 3 runs failed" in said.err
    assert "test/accuracy" in said.out and "3 row(s) in" in said.out
    assert not list((cwd / "outputs/sweeps/latest").glob(".stop-*"))


@pytest.mark.parametrize("launcher", LOCAL)
def test_the_same_rows_as_the_pool(tlmtl, tmp_path, pool, launcher):
    needs(launcher)
    write(tmp_path / "bad_terms.py", BAD)
    command = [*THREE, f"+experiment={launcher}"]
    same_as(pool, tmp_path, tlmtl(command, tmp_path))
    again = tlmtl([*command, "sweep.rerun=none"], tmp_path)
    assert "3 run(s): 0 to do" in again.err, again.all
    assert decided(tmp_path) == decided(pool)


def test_the_same_rows_as_an_array_of_slurm(tlmtl, tmp_path, pool):
    needs("submitit_slurm")
    write(tmp_path / "bad_terms.py", BAD)
    env = fake_slurm.install(tmp_path / "slurm")
    command = [*THREE, "+experiment=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1"]
    same_as(pool, tmp_path, tlmtl(command, tmp_path, **env))
    script = (tmp_path / "slurm/100.sh").read_text()
    for line in (
        "--array=0-2%3", "--partition=gpu", "--gpus-per-node=1", "--time=240", "--mem=8GB", "--signal=USR2@120",
        "--cpus-per-task=4", "--job-name=tlmtl",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script, script
    assert not (tmp_path / "slurm/101.sh").exists()


@pytest.mark.slow
def test_a_run_that_slurm_preempts_goes_back_into_the_queue(tmp_path):
    needs("submitit_slurm")
    env = {**os.environ, **fake_slurm.install(tmp_path / "slurm")}
    words = [word.replace("4000", "1200") for word in LONG]
    process = subprocess.Popen([str(TLMTL), *words, "+experiment=slurm"], cwd=tmp_path, env=env, stderr=subprocess.PIPE)
    until(lambda: len({path.parent for path in tmp_path.glob("outputs/sweeps/latest/*/checkpoint/*.pt")}) == 2)
    preempted = int((tmp_path / "slurm/100_0.pid").read_text())
    os.kill(preempted, signal.SIGUSR2)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert (tmp_path / "slurm/requeued").read_text() == "100_0\n"
    assert statuses(tmp_path) == {"done"}
    logs = [path.read_text() for path in sorted(tmp_path.glob("outputs/sweeps/latest/*/log.txt"))]
    assert sum("Going on after step" in text for text in logs) == 1


@pytest.mark.slow
def test_ctrl_c_stops_what_joblib_runs_with_checkpoints(tmp_path):
    needs("joblib")
    process = subprocess.Popen(
        [str(TLMTL), *LONG, "+experiment=joblib"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(list(tmp_path.glob("outputs/sweeps/latest/*/checkpoint"))) == 2)
    began = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and "The same command goes on" in errors
    assert statuses(tmp_path) == {"interrupted"}
    assert len(list(tmp_path.glob("outputs/sweeps/latest/*/checkpoint/*"))) >= 2
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in began), 20)


@pytest.mark.slow
def test_a_worker_of_joblib_that_is_killed_leaves_runs_to_go_on_with(tlmtl, tmp_path):
    needs("joblib")
    words = [word.replace("4000", "400") for word in LONG]
    command = [*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]
    process = subprocess.Popen([str(TLMTL), *command], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until(lambda: list(tmp_path.glob("outputs/sweeps/latest/*/checkpoint/*")))
    workers = [one for one in psutil.Process(process.pid).children() if "loky" in " ".join(one.cmdline())]
    next(one for one in workers if "tracker" not in " ".join(one.cmdline())).kill()
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 1 and "Traceback" not in errors, errors
    assert errors.count("did not come to its end") == 1 and "The same command goes on with it" in errors
    said = tlmtl(words, tmp_path)  # by the pool, this time
    assert said.code == 0 and "1 to do" in said.err, said.all
    assert [row["status"] for row in rows(tmp_path)] == ["done", "done"]


def test_a_command_that_is_wrong_starts_nothing(main, tmp_path):
    needs("joblib")
    for wrong, word in (
        ("train.epoch=3", "train.epochs"),
        ("tasks=[digit],[nope]", "nope"),
        ("model=nope", "small_cnn"),
    ):
        refused(main("train", "-m", "hydra/launcher=joblib", "seed=0,1", "strategy=from_scratch", wrong), word)
    refused(main("train", "-m", "hydra/launcher=joblib", "hydra.launcher.n_job=2", "seed=0,1"), "n_job")
    refused(main("train", "-m", "hydra/launcher=jobs", "seed=0,1"), "hydra/launcher 'jobs'", "joblib")
    nothing_written(tmp_path)


def test_no_slurm_here(main, tmp_path, monkeypatch):
    needs("submitit_slurm")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said = main("train", "-m", "+experiment=slurm", "seed=0,1", "strategy=from_scratch", "train.epochs=1")
    refused_words = ("hydra/launcher=submitit_slurm could not start the jobs", "srun")
    assert said.code == 2 and all(word in said.err for word in refused_words) and "Traceback" not in said.err, said.err


def test_a_launcher_that_is_not_installed(main, monkeypatch):
    from tlmtl import explain

    error = explain._unknown_member("hydra/launcher/ray", ["basic", "tlmtl"], "")
    assert isinstance(error, ConfigError) and "pip install --no-deps hydra-ray-launcher" in str(error)
    needs("joblib")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "joblib" else real(name, *more)
    )
    said = main("train", "-m", "hydra/launcher=joblib", "seed=0,1", "strategy=from_scratch")
    refused(said, "needs the package joblib", "pip install 'tlmtl[cluster]'")


@pytest.mark.parametrize(
    ("launcher", "settings", "words"),
    [
        ("submitit_slurm", "{setup: [touch here]}", ["'hydra.launcher.setup'", "command line"]),
        ("submitit_slurm", '{comment: "a\\ntouch here"}', ["'hydra.launcher.comment'", "line break"]),
        (
            "submitit_slurm",
            "{additional_parameters: {x: y}}",
            ["'hydra.launcher.additional_parameters.x'", "command line"],
        ),
        ("ray", "{ray: {init: {address: 'ray://far'}}}", ["'hydra.launcher.ray.init.address'", "command line"]),
        ("ray", "{ray: {remote: {runtime_env: {pip: [x]}}}}", ["'hydra.launcher.ray.remote.runtime_env.pip'"]),
    ],
)
def test_a_preset_cannot_make_a_launcher_run_code(main, tmp_path, launcher, settings, words):
    needs(launcher)
    text = f"# @package _global_\ndefaults:\n  - override /hydra/launcher: {launcher}\nhydra:\n  launcher: {settings}\n"
    write(tmp_path / "conf" / "experiment" / "x.yaml", text)
    refused(main("train", "-m", "+experiment=x", "seed=0,1"), *words)
    nothing_written(tmp_path)
