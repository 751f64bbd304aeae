"""A config is data that may come from a stranger: it cannot make the program import or run anything it does not name itself."""

import os
import subprocess
import sys

import pytest
from conftest import nothing_written, refused, write

from tlmtl import results

SHORT = ("train.epochs=1", "progress=false")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("os.system", ["'os.system'", "tlmtl.models", "allow=[os]"]),
        ("torch.hub.load", ["'torch.hub.load'", "tlmtl.models"]),
        ("tlmtl.models.source.np", ["may not be"]),
        ("tlmtl.models.source.torch.hub.load", ["cannot be imported"]),
        ("tlmtl.models.source.nn.Linear", ["cannot be imported"]),
        ("tlmtl.models.source.ConfigError", ["may not be"]),
        ("tlmtl.models.nope.f", ["cannot be imported"]),
        ("small_cnn", ["may not be"]),
    ],
)
def test_a_target_outside_the_allowed_packages(main, tmp_path, target, words):
    refused(main("train", f"model._target_={target}"), "'model._target_'", *words)
    write(tmp_path / "conf" / "model" / "mine.yaml", f"_target_: {target}\n")
    refused(main("train", "model=mine"), "'model._target_'", *words)
    nothing_written(tmp_path)


CODE = "_target_: subprocess.run\nargs: touch here\n"
LOGGERS = "version: 1, root: {handlers: [x]}, handlers: {x: {class: subprocess.Popen, args: [touch, here]}}"


@pytest.mark.parametrize(
    ("hydra", "word"),
    [
        ("callbacks: {mine: {_target_: os.system, command: touch here}}", "hydra.callbacks"),
        ("launcher: {_target_: os.system}", "hydra.launcher._target_"),
        ("sweeper: {_target_: os.system}", "hydra.sweeper._target_"),
        (f"job_logging: {{{LOGGERS}}}", "hydra.job_logging"),
        (f"hydra_logging: {{{LOGGERS}}}", "hydra.hydra_logging"),
        ("job: {env_set: {PATH: /tmp}}", "hydra.job.env_set"),
        ("mode: MULTIRUN\n  sweeper: {params: {allow: '[subprocess]'}}", "'allow'"),
        ("overrides: {task: ['allow=[subprocess]']}", "hydra.overrides"),
        ("mode: MULTIRUN\n  sweeper: {params: {hydra.verbose: 'true'}}", "'hydra.verbose'"),
    ],
)
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_a_preset_cannot_make_hydra_run_code(main, tmp_path, hydra, word, sweep):
    write(tmp_path / "conf" / "experiment" / "x.yaml", f"# @package _global_\nhydra:\n  {hydra}\n")
    refused(main("train", "+experiment=x", *sweep), word, "may not be")
    nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("path", "text", "choice"),
    [
        ("experiment/x.yaml", "# @package _global_\nallow: [subprocess]\n", "+experiment=x"),
        ("strategy/x.yaml", "# @package _global_\nallow: [subprocess]\nstrategy: {lr: 1}\n", "strategy=x"),
    ],
)
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_only_the_command_line_may_allow_packages(main, tmp_path, path, text, choice, sweep):
    write(tmp_path / "conf" / path, text + "term:\n  x:\n    " + CODE.replace("\n", "\n    "))
    refused(main("train", choice, *sweep), "'allow'", "command line")
    nothing_written(tmp_path)


def test_swept_presets_are_checked_like_any_other(main, tmp_path):
    typed = "# @package _global_\nallow: [subprocess]\nhydra: {overrides: {task: ['allow=[subprocess]']}}\nterm:\n  x:\n    "
    write(tmp_path / "conf" / "experiment" / "x.yaml", typed + CODE.replace("\n", "\n    "))
    refused(main("train", "-m", "+experiment=two_digits,x"), "'allow'", "command line")
    nothing_written(tmp_path)


TERM = """
from tlmtl.terms.l2_sp import L2SP

class Mine(L2SP):
    def __init__(self, strength: float = 0.1):
        super().__init__(strength, strength)
"""
ALLOWED = ("allow=[my_terms]", "+term.mine._target_=my_terms.Mine", "strategy=finetune_all", *SHORT)


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_a_module_beside_the_command_may_be_allowed(tlmtl, tmp_path, sweep):
    write(tmp_path / "my_terms.py", TERM)
    said = tlmtl(["train", *ALLOWED, *sweep], tmp_path)
    assert said.code == 0, said.all
    top = tmp_path / "outputs" / ("sweeps" if sweep else "runs") / "latest"
    rows = results.read_rows(top / "results.csv")
    assert {(row["status"], row["terms"]) for row in rows} == {("done", "mine")}


def test_an_allowed_module_is_checked_like_any_other(main, tmp_path):
    write(tmp_path / "my_terms.py", TERM)
    refused(main("train", *ALLOWED, "+term.mine.strenght=1"), "'term.mine.strenght'", "'term.mine.strength'")
    refused(main("train", "allow=[my_terms]", "+term.mine._target_=my_terms.L2SP.x"), "cannot be imported")
    refused(main("train", "allow=[nope]", "+term.mine._target_=nope.A"), "cannot be imported", "nope")
    refused(main("train", "allow=my_terms"), "'allow'", "list")
    nothing_written(tmp_path)


def test_modules_of_the_current_folder_shadow_nothing(tlmtl, tmp_path):
    """Every command, in a folder with a module of each name of Python's own library."""
    for name in sys.stdlib_module_names - {"this", "antigravity"}:
        write(tmp_path / f"{name}.py", f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + ' ')\n")
    swept = tlmtl(["train", "-m", "strategy=from_scratch,finetune_all", *SHORT, "source.train.epochs=1"], tmp_path)
    assert swept.code == 0 and "2 row(s)" in swept.out, swept.all
    folder = next((tmp_path / "outputs/sweeps/latest").glob("*/run.json")).parent
    for words in (
        ["report", "outputs"],
        ["check"],
        ["predict", str(folder), "."],
    ):
        said = tlmtl(words, tmp_path)
        assert "Traceback" not in said.all
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def test_a_repository_runs_nothing_of_its_own(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)

    monkeypatch.chdir(tmp_path)
    git("init")
    write(tmp_path / "a b.txt", "one\n")
    write(tmp_path / "below" / "c.txt", "one\n")
    git("add", ".")
    git("commit", "-m", "first")
    git("config", "core.fsmonitor", "touch ran; false")
    git("config", "filter.mine.clean", "touch ran; cat")
    write(tmp_path / ".gitattributes", "* filter=mine\n")
    os.utime(tmp_path / "a b.txt", (1, 1))  # looks changed
    clean = results.provenance()["git_sha"]
    assert len(clean) == 12
    write(tmp_path / "a b.txt", "two\n")
    monkeypatch.chdir(tmp_path / "below")
    assert results.provenance()["git_sha"] == f"{clean}-dirty"
    write(tmp_path / "a b.txt", "one\n")
    assert results.provenance()["git_sha"] == clean
    (tmp_path / "below" / "c.txt").unlink()
    assert results.provenance()["git_sha"] == f"{clean}-dirty"
    assert not list(tmp_path.rglob("ran"))


def test_a_script_without_a_main_guard_may_start_a_sweep(tmp_path):
    words = ["train", "-m", "strategy=from_scratch", "seed=0,1", *SHORT]
    write(tmp_path / "mine.py", f"import tlmtl.cli\nprint('begun')\nprint('code', tlmtl.cli.main({words}))\n")
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert lines[0] == "begun" and lines.count("begun") == 1 and lines[-1] == "code 0", done.stdout + done.stderr
