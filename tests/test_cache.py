"""`tlmtl cache`: what is kept is shown, verified, pruned and cleared; what is in use or not this program's stays."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pexpect
import pytest
from conftest import TLMTL, refused
from filelock import FileLock

from tlmtl.cache import contents
from tlmtl.cache.tell import age_of, bytes_of
from tlmtl.data import known
from tlmtl.store import making
from tlmtl.store.rows import Store

FEATURES = {
    "model": {"_target_": "tlmtl.models.torchvision.torchvision_model", "name": "resnet18"},
    "where": "features", "shape": [3, 224, 224], "engine": "openvino", "precision": "bf16-mixed", "device": "cpu",
    "view": ["flip", 2],
}  # fmt: skip
IMAGES = {"shape": [3, 64, 48], "interpolation": "bilinear", "crop": None}


def keep(root: Path, kind: str, about: dict, count: int, width: int = 256) -> Store:
    """A store of `count` rows of 1 KB, in blocks of 64."""

    def make(positions):
        for part in np.array_split(positions, range(64, len(positions), 64)):
            yield np.repeat(part[:, None], width, axis=1).astype("f4")

    store = Store(root, kind, about, None)
    store.fetch(np.arange(count), make, 2**40)
    return store


def source(root: Path, name: str = "0123456789ab_f4551f3cbaca") -> Path:
    folder = root / "sources" / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"status": "done"}')
    (folder / "results.csv").write_text("run_id,model,epochs\nx,small_cnn,3\n")
    (folder / "config.yaml").write_text("dataset:\n  val: 1\n  _target_: tlmtl.data.mnist5k.mnist5k\nseed: 1\n")
    (folder / "model.safetensors").write_bytes(bytes(5000))
    return folder


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    for top, _, names in os.walk(path):
        for name in ("", *names):
            os.utime(Path(top) / name, (then, then))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A cache that holds something of every kind, and things of others."""
    monkeypatch.setattr(making, "BLOCK", 64 * 1024)
    monkeypatch.setattr(making, "RESERVE", 0)
    root = tmp_path / "cache"
    monkeypatch.setenv("TLMTL_CACHE", str(root))
    keep(root, "features", FEATURES, 200)
    keep(root, "images", IMAGES, 1100)
    source(root)
    paths = [str(tmp_path / "data" / f"{i}.png") for i in range(7)]
    found = pd.DataFrame({"hash": np.arange(7)})
    known.keep(known.place("data", root), paths, np.zeros((7, 3), np.int64), found)
    plan = {"about": {"model": FEATURES["model"], "device": "cpu"}, "plan": {"precision": "bf16-mixed"}}
    (root / "plans").mkdir()
    (root / "plans" / "0123456789abcdef.json").write_text(json.dumps(plan))
    (root / "plans" / ".0123456789abcdef.lock").write_text("")
    (root / "notes.txt").write_text("mine")
    (root / "features" / "mine").mkdir()
    (root / "features" / "mine" / "thesis.npy").write_text("mine, too")
    outside = keep(tmp_path / "elsewhere", "features", {}, 10).folder
    assert outside is not None
    (root / "features" / ("e" * 20)).symlink_to(outside)
    (root / "sources" / "abc_def").symlink_to(source(tmp_path / "elsewhere"))
    return root


def lines(out: str) -> dict[str, list[str]]:
    """By kind, what follows it in the rows of the printed table."""
    found: dict[str, list[str]] = {}
    for line in out.splitlines():
        kind, _, rest = line.partition(" ")
        if kind in (*contents.KINDS, contents.OTHER):
            found.setdefault(kind, []).append(" ".join(rest.split()))
    return found


def others(root: Path) -> list[str]:
    """What is not this program's and still there."""
    elsewhere = root.parent / "elsewhere"
    there = [root / "notes.txt", root / "features" / "mine" / "thesis.npy", root / "features" / ("e" * 20)]
    there += [root / "sources" / "abc_def" / "run.json", *elsewhere.glob("features/*/*.json")]
    return [str(path) for path in there if not path.exists()]


def test_everything_that_is_kept_is_shown(main, root):
    said = main("cache")
    rows = lines(said.out)
    assert said.code == 0
    assert [len(rows[kind]) for kind in (*contents.KINDS, contents.OTHER)] == [1, 1, 1, 1, 1, 4]
    assert rows["features"][0].startswith(
        "resnet18, features, 224x224x3, flip, view 2, openvino, bf16-mixed, cpu 200 20"
    )
    assert rows["images"][0].startswith("64x48x3, bilinear, whole 1,100 1.1 MB 0 s ago 0 s ago images/")
    assert rows["sources"][0].startswith("small_cnn trained on mnist5k, train.epochs=3 5 KB")
    assert rows["scans"][0].startswith(f"files below {root.parent / 'data'} 7 ")
    assert rows["plans"][0].startswith("resnet18, cpu, bf16-mixed ")
    assert all("not known here, and left alone" in row for row in rows["other"])
    assert f"MB in {root}. Features and images: 1.3 MB (at most 20,000 MB, unless a run" in said.out


def test_an_empty_cache_and_one_that_is_not_there(main, tmp_path, monkeypatch):
    monkeypatch.setenv("TLMTL_CACHE", str(tmp_path / "nothing"))
    assert main("cache").out == f"Nothing is kept in {tmp_path / 'nothing'}.\n"
    assert main("cache", "--verify").code == 0
    assert "There is nothing of that" in main("cache", "--clear", "--yes").out
    assert not (tmp_path / "nothing").exists()
    refused(main("cache", "--cache", str(tmp_path / "nothing")), "--cache should be a folder", "nothing at")


def test_names_of_strangers_do_not_steer_the_terminal(main, root):
    (root / "features\x1b[31m[red]").mkdir()
    folder = Store(root, "features", FEATURES, None).folder
    assert folder is not None
    about = {"tlmtl": "1", "format": 1, "kind": "features", "about": {"where": "\x1b[2J[bold]x"}}
    (folder / "about.json").write_text(json.dumps(about))
    said = main("cache")
    assert said.code == 0 and "\x1b" not in said.out and "[red]" in said.out and "[bold]x" in said.out


def test_verify_finds_what_is_broken_and_repair_removes_it(main, root):
    said = main("cache", "--verify")
    assert said.code == 0 and "22 blocks in 2 stores (1.3 MB) read: none broken." in said.out
    first = sorted((root / "images").glob("*/*[0-9].npy"))[0]
    content = bytearray(first.read_bytes())
    stamp = first.stat()
    content[-1] ^= 1
    first.write_bytes(content)
    os.utime(first, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    said = main("cache", "--verify")
    assert said.code == 1 and f"{first.name} is not what was written" in said.out and "1 broken" in said.out
    assert "--repair" in said.out and first.exists()
    said = main("cache", "--repair")
    assert said.code == 0 and "; removed" in said.out and not first.exists()
    assert "21 blocks in 2 stores" in main("cache", "--verify").out
    assert others(root) == []


def test_prune_brings_features_and_images_below_a_size_the_oldest_first(main, root):
    age(root / "images", 3)
    said = main("cache", "--prune", "1")
    assert said.code == 0 and "Removed 326 KB from" in said.out
    rows = lines(main("cache").out)
    assert rows["features"][0].split(" cpu ")[1].startswith("200 ") and " whole 780 " in rows["images"][0]
    main("cache", "--prune", "0")
    assert set(lines(main("cache").out)) == {"sources", "scans", "plans", "other"} and others(root) == []


def test_what_has_not_been_used_for_long_goes(main, root):
    age(root / "images", 40)
    age(root / "sources" / "0123456789ab_f4551f3cbaca", 40)
    age(root / "plans", 40)
    age(root / "scans", 2)
    assert main("cache", "--older-than", "30d").code == 0
    assert set(lines(main("cache").out)) == {"features", "scans", "other"}
    assert main("cache", "--older-than", "36h").code == 0
    assert set(lines(main("cache").out)) == {"features", "other"} and others(root) == []


def test_what_a_run_uses_counts_as_used(main, root, monkeypatch):
    age(root, 40)
    keep(root, "features", FEATURES, 200)
    known.recall(known.place("data", root), ["x"], np.zeros((1, 3), np.int64), ["hash"])
    assert main("cache", "--older-than", "30d").code == 0
    assert set(lines(main("cache").out)) == {"features", "scans", "other"}


def test_clear_takes_one_kind_or_all_and_nothing_else(main, root):
    assert "Removed 1.1 MB" in main("cache", "--clear", "images", "--yes").out
    assert set(lines(main("cache").out)) == {"features", "sources", "scans", "plans", "other"}
    assert main("cache", "--clear", "--yes").code == 0
    assert set(lines(main("cache").out)) == {"other"} and others(root) == []
    left = {path.suffix for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    assert left <= {".lock", ".txt", ".npy"}


def test_clear_asks_first(main, root):
    refused(main("cache", "--clear"), "would remove features, images, sources, scans, plans (1.3 MB)", "needs --yes")
    for answer, code, there in (("n", "Nothing was removed.", True), ("y", "Removed 1.1 MB", False)):
        asked = pexpect.spawn(str(TLMTL), ["cache", "--clear", "images"], encoding="utf-8", timeout=60)
        asked.expect(r"Remove images \(1\.1 MB\) from .*\? \[y/N\] ")
        asked.sendline(answer)
        asked.expect_exact(code)
        asked.expect(pexpect.EOF)
        assert ("images" in lines(main("cache").out)) is there


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--clear", "feature", "--yes"], "Did you mean 'features'?"),
        (["--verify", "--clear"], "--verify and --clear"),
        (["--yes"], "--yes goes with --clear"),
        (["--cache", __file__], "Found a file"),
    ],
)
def test_wrong_commands_are_refused(main, root, words, said):
    refused(main("cache", *words), said)
    assert len(lines(main("cache").out)) == 6


@pytest.mark.parametrize("words", [["--prune", "-3"], ["--prune", "much"], ["--older-than", "30"], ["--what"], ["x"]])
def test_wrong_values_are_refused(main, root, words):
    said = main("cache", *words)
    assert said.code == 2 and "tlmtl cache" in said.err and "Traceback" not in said.all


# ------------------------------------------------------------------------------------------------------- what is in use


def test_what_a_process_is_making_stays(main, root):
    (folder,) = [one.path for one in contents.entries(root) if one.kind == "images"]
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        said = main("cache", "--clear", "images", "--yes")
    assert said.code == 1 and "a process is making it" in said.err and "Removed 0 B" in said.out
    assert "images" in lines(main("cache").out)
    assert main("cache", "--clear", "images", "--yes").code == 0


def test_a_source_that_a_run_uses_stays(main, root):
    folder = root / "sources" / "0123456789ab_f4551f3cbaca"
    code = f"from pathlib import Path; from tlmtl.store.inuse import hold; hold(Path({str(folder)!r})); "
    code += "print(1, flush=True); input()"
    users = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for one in users:
        assert one.stdout is not None and one.stdout.readline() == "1\n"
    age(folder, 40)
    assert "images" in lines(main("cache", "--older-than", "30d").out) or folder.exists()  # it is used now
    for one in users:
        said = main("cache", "--clear", "sources", "--yes")
        assert said.code == 1 and "a run uses it" in said.err and folder.exists()
        one.communicate("\n")
    assert main("cache", "--clear", "sources", "--yes").code == 0 and not folder.exists()


def test_a_run_that_reads_what_is_removed_goes_on(main, root):
    import torch

    rows = keep(root, "images", IMAGES, 1100).fetch(np.arange(1100), lambda at: iter([]), 0).rows
    assert rows.tensor is None
    assert main("cache", "--clear", "--yes").code == 0
    assert torch.equal(rows[torch.arange(1100)][:, 5], torch.arange(1100).float())


def test_sizes_and_ages_in_words():
    assert [bytes_of(n) for n in (0, 1023, 2048, 5 * 2**20, 150 * 2**20, 3 * 2**30, 2**45)] == [
        "0 B", "1,023 B", "2 KB", "5.0 MB", "150 MB", "3.0 GB", "32,768 GB",
    ]  # fmt: skip
    assert [age_of(n) for n in (-1, 5, 121, 7200, 90000, 200000)] == ["0 s", "5 s", "2 min", "2 h", "25 h", "2 days"]
