"""What is no file of parameters: told in one line, with what to do, and no code in it is ever run."""

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import nothing_written, refused, write
from safetensors.torch import save_file
from test_weights import loaded, save, state
from torch import nn

from tlmtl.errors import ConfigError


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.txt", "x")


def _half(path: Path, **more) -> None:
    torch.save(state(), path, **more)
    path.write_bytes(path.read_bytes()[:3000])


def _half_safetensors(path: Path) -> None:
    save_file(state(), path)
    path.write_bytes(path.read_bytes()[:3000])


CODE = ["so it was not loaded: opening such a file can run anything", "torch.save(model.state_dict(), FILE)"]
BAD = {
    "missing": (lambda path: write(path.with_name("bat.pth"), "x"), ["There is no file", "Did you mean 'bat.pth'?"]),
    "a folder": (lambda path: path.mkdir(), ["should be a file of parameters", "source=run source.path="]),
    "a pipe": (lambda path: os.mkfifo(path), ["is no ordinary file"]),
    "empty": (lambda path: path.touch(), ["is empty"]),
    "text": (lambda path: path.write_text("version https://git-lfs"), ["neither torch nor safet", "b'version https:"]),
    "a zip": (_zip, ["is broken, or no file of parameters"]),
    "half a zip": (_half, ["is broken, or no file of parameters", "Get it again"]),
    "half a pickle": (
        lambda p: _half(p, _use_new_zipfile_serialization=False),
        ["is broken, or no file of parameters"],
    ),
    "half a safetensors": (_half_safetensors, ["is broken, or no file of parameters"]),
    "only a header": (lambda path: path.write_bytes(b"\xff" * 8 + b"{"), ["is broken, or no file of parameters"]),
    "not a pickle": (lambda path: path.write_bytes(b"\x80\x02garbage"), ["is a pickle of something else", *CODE]),
    "a module": (lambda p: torch.save(nn.Linear(2, 2), p), ["needs 'torch.nn.modules.linear.Linear', which is", *CODE]),
    "a namespace": (
        lambda path: torch.save({"model": state(), "args": argparse.Namespace(lr=1)}, path),
        ["needs 'argparse.Namespace', which is code and no tensor", *CODE],
    ),
    "one tensor": (lambda path: torch.save(torch.zeros(3), path), ["holds no parameters", "a dict from names to tens"]),
    "no tensors": (lambda path: torch.save({"a": 1, "b": {"c": [2]}}, path), ["holds no parameters"]),
    "a script": (
        lambda path: torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path)),
        ["is a TorchScript archive, which is code and no state dict", "(source.path)", "state_dict(), OTHER)"],
    ),
    "numbers of numpy": (lambda p: p.write_bytes(pickle.dumps({"w": np.zeros(3)})), ["is a pickle of something else"]),
}


def _deflated(path: Path) -> None:
    torch.save({"block1.0.weight": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


BOMBS = {
    "expanded": (
        lambda path: torch.save({"x": torch.zeros(1).expand(6 * 10**8)}, path),
        ["'x' of ", "(600000000,), of which the file holds 4 bytes alone", "tensor.clone()"],
    ),
    "expanded under an own name": (
        lambda path: torch.save({"state_dict": {"block1.0.weight": torch.zeros(1).expand(10**13)}}, path),
        ["'state_dict.block1.0.weight' of ", "of which the file holds 4 bytes alone"],
    ),
    "deflated": (_deflated, ["is compressed ('", "it could fill the memory", "Save the state dict anew"]),
}


@pytest.mark.parametrize(("make", "words"), BOMBS.values(), ids=BOMBS)
def test_files_that_would_fill_the_memory(tmp_path, make, words):
    make(tmp_path / "bomb.pth")
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path / "bomb.pth")
    for word in [*words, "(source.path)", "bomb.pth"]:
        assert word in str(error.value)


def test_tensors_that_share_values_are_no_bombs(tmp_path):
    whole = {**state(), "tied": (tied := torch.zeros(100)), "part": tied[10:20], "turned": torch.zeros(3, 4).T}
    torch.save(whole, tmp_path / "w.pth")
    assert loaded(tmp_path / "w.pth")[0].state["turned"].shape == (4, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_what_is_no_file_of_parameters(tmp_path, recwarn, make, words):
    make(tmp_path / "bad.pth")
    recwarn.clear()
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path / "bad.pth")
    for word in [*words, "(source.path)" if "'source.path'" not in str(error.value) else "", "bad.pth"]:
        assert word in str(error.value)
    assert "\n" not in str(error.value) and "weights_only` set to" not in str(error.value)  # torch's advice
    assert len(recwarn) == 0


def test_paths_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match=r"'source.path=~nobody_of_that_name/x' cannot be found"):
        loaded("~nobody_of_that_name/x")
    with pytest.raises(ConfigError, match=r"cannot be read: .*source.path"):
        loaded("x" * 5000)
    with pytest.raises(ConfigError, match=r"cannot be read: .*null byte.*source.path|There is no file"):
        loaded("a\0b")


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "nested", "protocol 0"])
def test_code_in_a_file_is_never_run(tmp_path, kind):
    marker, path = tmp_path / "marker", tmp_path / "w.pth"
    if kind in ("bare", "protocol 0"):
        path.write_bytes(pickle.dumps(Evil(marker), protocol=0 if kind == "protocol 0" else None))
    else:
        content = {"model": {**state(), "x": Evil(marker)}} if kind == "nested" else {**state(), "x": Evil(marker)}
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    with pytest.raises(ConfigError) as error:
        loaded(path)
    if kind not in ("bare", "protocol 0"):
        assert "w.pth needs 'posix.system', which is code and no tensor, so it was not loaded" in str(error.value)
    assert not marker.exists()
    assert os.system(f"test -e {marker}") != 0


def test_the_command_line_refuses_before_anything_is_written(main, tmp_path):
    marker = tmp_path / "marker"
    torch.save({"x": Evil(marker)}, tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("<!DOCTYPE html>")
    save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    source = ["source=file", "model.width=4"]
    for path, words in {
        "evil.pth": ["needs 'posix.system'", "source.path", "torch.save(model.state_dict(), FILE)"],
        "text.pth": ["begins with b'<!DOCTYPE html>'"],
        "missing.pth": ["There is no file missing.pth (source.path)"],
        "other.pth": ["Nothing in other.pth fits this model", "block1.0.weight"],
    }.items():
        refused(main("train", *source, f"source.path={path}"), *words)
    refused(main("train", "source=file"), "'source.path' has no value", "source.path=VALUE")
    refused(main("train", "-m", *source, "source.path=missing.pth", "seed=0,1"), "There is no file missing.pth")
    refused(main("train", *source, "source.path=x", "source.prefx=module"), "Did you mean 'source.prefix'?")
    nothing_written(tmp_path)
    assert not marker.exists()
