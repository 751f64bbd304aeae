"""The README's own examples run: what one adds as it says, and the way from one's own images to predictions."""

import re
import shlex
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


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The images and the table that docs/own-data.md makes."""
    guide = (Path(__file__).parent.parent / "docs" / "own-data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "own-data.md", "exec"), {})
    (tmp_path / "new_images").mkdir()
    for path in sorted((tmp_path / "my_images" / "3").iterdir())[:4]:
        (tmp_path / "new_images" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "new.csv").write_text(
        "image\n" + "\n".join(f"new_images/{p.name}" for p in Path("new_images").iterdir())
    )
    return tmp_path


@pytest.mark.parametrize("kind", ["folder", pytest.param("table", marks=pytest.mark.slow)])
def test_three_commands_lead_from_images_to_predictions(own, kind, capsys):
    (block,) = re.findall(rf"```\n(tlmtl train -m dataset={kind} [^`]*?)```", README)
    train, compare, predict = [shlex.split(line)[1:] for line in block.strip().splitlines()]
    few = {"folder": "seed=0,1,2", "table": "dataset.fold=all/5"}[kind]
    train[train.index(few)] = {"folder": "seed=0,1", "table": "dataset.fold=all/2"}[kind]
    assert cli.main([*train, "train.epochs=8", "source.train.epochs=1", "progress=false"]) == 0
    capsys.readouterr()
    assert cli.main(compare) == 0
    shown = capsys.readouterr().out
    assert "linear_probe" in shown and "finetune_all" in shown
    runs = sorted(path.parent for path in own.glob("outputs/sweeps/latest/*/run.json"))
    predict[predict.index("outputs/sweeps/latest/RUN")] = str(runs[0])
    assert cli.main(predict) == 0
    written = (own / "predictions.csv").read_text().splitlines()
    assert len(written) == 5 and written[0].startswith("image,") and written[0].endswith(",error")
