"""The README's own examples run: a strategy, a term and a data set added as it says."""

import re
import sys
from pathlib import Path

import pytest

from tlmtl import cli

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
QUICK = ["train.epochs=2", "source.train.epochs=1", "progress=false"]


@pytest.fixture
def added(tmp_path, monkeypatch):
    """A folder with the files that the README shows, where it says they are."""
    blocks = re.findall(r"```(yaml|python)\n(.*?)```", README, re.S)
    yaml = [text for kind, text in blocks if kind == "yaml"]
    python = [text for kind, text in blocks if kind == "python" and "tlmtl.run" not in text]
    named = re.findall(r"`(conf/\w+/\w+\.yaml)`", README)
    modules = re.findall(r"`(my_\w+\.py)`", README)
    assert len(named) == len(yaml) == 3 and len(modules) == len(python) == 2
    for name, text in [*zip(named, yaml, strict=True), *zip(modules, python, strict=True)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["strategy=top_only"], "top_only"),
        (["strategy=finetune_all", "term=[small_features]", "allow=[my_terms]"], "small_features"),
        (["dataset=stripes", "allow=[my_data]"], "stripes"),
    ],
)
def test_what_the_readme_adds_runs(added, words, shown, capsys):
    assert f"tlmtl train {' '.join(words)}".replace("'", "") in README.replace("'", "")
    assert cli.main(["train", *words, *QUICK]) == 0
    assert shown in capsys.readouterr().out
