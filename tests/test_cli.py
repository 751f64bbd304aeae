"""The command line: flags in any position, help without imports, lists, and configs of the user's own beside packaged ones."""

import re
import subprocess
import sys

import pytest
import yaml
from conftest import write

from tlmtl import __version__, commands
from tlmtl.errors import Preempted
from tlmtl.help import HELP
from tlmtl.presets import GROUP_NAMES, packaged_folder
from tlmtl.results import read_rows
from tlmtl.sweep.timeleft import clock

SHORT = ("train.epochs=1", "progress=false")
MINE = "# my own way\ndefaults: [finetune_all]\nlr: 0.125\n"


def composed(said) -> dict:
    assert said.code == 0, said.all
    return yaml.safe_load(said.out)


# Help


def test_tlmtl_alone_shows_the_commands(main):
    said = main()
    assert said.code == 2 and "tlmtl train" in said.out and "Examples:" in said.out


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_help(main, flag):
    said = main(flag)
    assert said.code == 0 and said.out == HELP["tlmtl"] + "\n"


@pytest.mark.parametrize("command", ["tlmtl", "train", "check", "compare", "list"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_five_examples_and_imports_nothing_heavy(command, flag):
    words = [flag] if command == "tlmtl" else [command, "seed=1", flag]
    code = (
        "import sys; from tlmtl.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'hydra', 'omegaconf', 'pandas', 'numpy', 'rich'} & set(sys.modules); "
        "print('HEAVY', sorted(heavy)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    examples = done.stdout.split("Examples:\n")[1].split("\n\n")[0].splitlines()
    assert len([line for line in examples if line.startswith("  tlmtl ")]) >= 5


@pytest.mark.parametrize("words", [("--version",), ("-V",), ("train", "--version")])
def test_version(main, words):
    said = main(*words)
    assert (said.code, said.out) == (0, f"tlmtl {__version__}\n")


def test_hydra_help(main):
    said = main("train", "--hydra-help")
    assert said.code == 0 and "strategy" not in said.err and "hydra/launcher" in said.out


def test_every_command_is_in_the_help():
    from tlmtl.cli import COMMANDS

    assert set(HELP) == {"tlmtl", *COMMANDS}
    assert all(f"tlmtl {command}" in HELP["tlmtl"] for command in COMMANDS)


# Flags


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        ("a=1 -m b=2,3", "-m a=1 b=2,3"),
        ("a=1 --cfg job b=2", "--cfg job a=1 b=2"),
        ("a=1 --info b=2", "--info a=1 b=2"),
        ("a=1 --info defaults-tree b=2", "--info defaults-tree a=1 b=2"),
        ("a=1 --config-dir=x b=2 -m", "--config-dir=x -m a=1 b=2"),
        ("a=1 -cd x -p model ~c +d=-1 ++e=--f", "-cd x -p model a=1 ~c +d=-1 ++e=--f"),
        ("--cfg", "--cfg"),
    ],
)
def test_flags_come_first(words, ordered):
    assert commands.flags_first(words.split()) == ordered.split()


def test_flags_in_any_position(main):
    first = main("train", "--cfg", "job", "strategy=finetune_all", "seed=3")
    assert composed(first)["strategy"]["lr"] == 1e-3 and composed(first)["seed"] == 3
    for words in ("strategy=finetune_all --cfg job seed=3", "strategy=finetune_all seed=3 --cfg job"):
        assert main("train", *words.split()) == first


def test_cfg_of_a_sweep_is_its_first_job(main):
    for words in ("strategy=finetune_all -m seed=4,5 --cfg job", "--cfg job -m strategy=finetune_all,distill seed=4,5"):
        cfg = composed(main("train", *words.split()))
        assert cfg["seed"] == 4 and "distill_features" not in cfg["strategy"]["terms"]
    assert composed(main("train", "-m", "seed=range(7,9)", "--cfg", "job"))["seed"] == 7


def test_cfg_resolved_and_in_part(main):
    assert composed(main("train", "--cfg", "job", "-p", "optimizer"))["lr"] == "${strategy.lr}"
    assert composed(main("train", "--cfg", "job", "--resolve", "strategy=distill"))["optimizer"]["lr"] == 1e-3


def test_info_shows_the_tree_of_defaults(main):
    said = main("train", "strategy=l2sp", "--info", "defaults-tree")
    assert said.code == 0 and re.search(r"strategy: l2sp:\s+strategy/finetune_all\s+term/l2_sp", said.out), said.out


def test_nothing_is_written_by_what_only_shows(main, tmp_path):
    for words in (["--cfg", "job"], ["--info"], ["--hydra-help"], ["-m", "seed=0,1", "--cfg", "all"]):
        assert main("train", *words).code == 0
    assert not list(tmp_path.iterdir())


# Runs


def test_a_run_with_spaces_in_its_overrides(main, tmp_path):
    said = main(
        "train", "output.root=a folder", "strategy.rules=[{params: heads.*}, {params: '*', frozen: true}]", *SHORT
    )
    assert said.code == 0, said.all
    (row,) = read_rows(tmp_path / "a folder" / "runs" / "latest" / "results.csv")
    assert row["status"] == "done" and "heads.*" in row["overrides"] and row["strategy"] == "linear_probe"
    assert "a folder/runs/" in said.out and "linear_probe" in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a folder"]


def test_a_sweep_named_by_an_experiment_takes_swept_overrides(main, tmp_path):
    said = main("train", "+experiment=demo", "seed=0,1", "strategy=from_scratch", *SHORT)
    assert said.code == 0, said.all
    rows = read_rows(tmp_path / "outputs" / "sweeps" / "latest" / "results.csv")
    assert [(row["strategy"], row["seed"]) for row in rows] == [("from_scratch", "0"), ("from_scratch", "1")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]


def test_debug_shows_the_traceback(tlmtl, tmp_path):
    said = tlmtl(["train", "seed=x", "--debug"], tmp_path)
    assert said.code == 1 and "Traceback" in said.err and "ConfigError" in said.err


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m tlmtl.cli list | head -1",
        shell=True, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


# Lists


def test_list_shows_every_group_and_member(main):
    said = main("list")
    assert said.code == 0
    for group in GROUP_NAMES:
        assert f"{group}: " in said.out
        for path in (packaged_folder() / group).glob("*.yaml"):
            assert re.search(rf"^ +{path.stem} +\S", said.out, re.M), path


def test_list_of_some_groups(main):
    said = main("list", "strategy", "weighting")
    assert "linear_probe" in said.out and "Alain & Bengio 2016" in said.out and "static" in said.out
    assert "digits" not in said.out


# Configs of the user's own


def test_own_configs_are_found_beside_packaged_ones(main, tmp_path):
    write(tmp_path / "conf" / "strategy" / "mine.yaml", MINE)
    write(tmp_path / "more" / "strategy" / "other.yaml", MINE.replace("0.125", "0.25"))
    assert composed(main("train", "strategy=mine", "--cfg", "job"))["strategy"]["lr"] == 0.125
    assert composed(main("train", "--cfg", "job", "strategy=other", "--config-dir", "more"))["strategy"]["lr"] == 0.25
    assert composed(main("train", "--cfg", "job", "strategy=mine", "--config-dir=more"))["strategy"]["lr"] == 0.125
    said = main("list", "strategy")
    assert re.search(r"mine +my own way +\(yours\)", said.out) and "linear_probe" in said.out


def test_a_run_with_own_configs(main, tmp_path):
    write(tmp_path / "conf" / "strategy" / "mine.yaml", MINE)
    write(tmp_path / "more" / "strategy" / "other.yaml", MINE)
    for words in (["strategy=mine"], ["strategy=other", "--config-dir", "more"]):
        said = main("train", *words, *SHORT)
        assert said.code == 0, said.all
        (row,) = read_rows(tmp_path / "outputs" / "runs" / "latest" / "results.csv")
        assert (row["strategy"], row["lr"], row["overrides"]) == (words[0].split("=")[1], "0.125", "")


@pytest.fixture
def unrelated(tmp_path):
    """The configs of another project of Hydra's."""
    write(tmp_path / "conf" / "config.yaml", "defaults: [{model: resnet18}]\nbatch: 3\n")
    write(tmp_path / "conf" / "model" / "resnet18.yaml", "_target_: their.Model\n")
    write(tmp_path / "conf" / "strategy" / "linear_probe.yaml", "lr: 5\n")
    write(tmp_path / "conf" / "hydra" / "launcher" / "tlmtl.yaml", "_target_: os.system\n")


def test_an_unrelated_conf_changes_nothing(main, tmp_path, unrelated):
    cfg = composed(main("train", "model=resnet18", "--cfg", "job"))
    assert cfg["strategy"]["lr"] == 1e-2 and "batch" not in cfg
    assert cfg["model"]["_target_"] == "tlmtl.models.torchvision.torchvision_model"
    assert "(yours)" not in main("list", "model", "strategy").out


def test_a_hidden_file_of_the_users_is_told_once(main, tmp_path, unrelated):
    (tmp_path / "conf" / "hydra" / "launcher" / "tlmtl.yaml").unlink()
    said = main("train", "-m", "seed=0,1", *SHORT)
    assert said.code == 0, said.all
    told = [line for line in said.err.splitlines() if "is not used" in line]
    assert len(told) == 1 and "conf/strategy/linear_probe.yaml" in told[0] and "strategy=linear_probe" in told[0]
    assert "resnet18" not in said.err


def test_a_launcher_of_another_project_is_refused(main, tmp_path, unrelated):
    said = main("train", "-m", "seed=0,1", *SHORT)
    assert said.code in (0, 2) and "Traceback" not in said.all
    assert said.code == 0 or "hydra.launcher._target_" in said.err


def test_an_error_of_the_program_s_own_is_none_of_a_config_file():
    def stopped(cfg):
        raise Preempted("Stopped by SIGTERM with 0 of 6 runs done.")

    with pytest.raises(Preempted, match="0 of 6"):
        commands.with_hydra([], stopped, "check")

    def wrong(cfg):
        clock(cfg)  # a bug, in any part of the program

    with pytest.raises(TypeError):
        commands.with_hydra([], wrong, "check")
