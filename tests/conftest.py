"""What all tests share: one cache for the pre-trained source, one thread, and two ways to call the command line."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Properties are tried on the same examples each time, so that a change is judged by what it changes; others are tried by
# `pytest --hypothesis-profile=default`.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
TLMTL = Path(sys.executable).with_name("tlmtl")
STARTED = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """With SLOW_SECONDS set, no slow test begins later than that."""
    limit = os.environ.get("SLOW_SECONDS")
    if limit and item.get_closest_marker("slow") and time.monotonic() - STARTED > float(limit):
        pytest.skip(f"not begun: the {limit} s for slow tests are over (`make test-slow` runs all)")


@dataclass
class Said:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        return self.out + self.err


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory):
    """One cache for the session and its workers, so that the embedded source is pre-trained once."""
    import torch

    torch.set_num_threads(1)
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tlmtl-cache"
    cache.mkdir(exist_ok=True)
    before = os.environ.get("TLMTL_CACHE")
    os.environ["TLMTL_CACHE"] = str(cache)
    yield cache
    if before is None:
        del os.environ["TLMTL_CACHE"]
    else:
        os.environ["TLMTL_CACHE"] = before


@pytest.fixture
def tlmtl() -> Callable[..., Said]:
    """`tlmtl(args, cwd)`: the command in a process of its own."""

    def call(args: Sequence[str], cwd: Path, timeout: float = 300, **env: str) -> Said:
        done = subprocess.run(
            [str(TLMTL), *args], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def main(tmp_path, monkeypatch, capfd) -> Iterator[Callable[..., Said]]:
    """`main("train", "seed=1")`: the command in this process, in `tmp_path`. An exception that the command line would show
    as a traceback goes through."""
    from tlmtl import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*args: str) -> Said:
        capfd.readouterr()
        code = cli.main(list(args))
        said = capfd.readouterr()
        return Said(code, said.out, said.err)

    monkeypatch.setattr(logging, "raiseExceptions", False)  # Hydra's handlers outlive the stream that a test captured
    yield call
    for handler in [h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler]:
        logging.getLogger().removeHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]  # the next test may have another module of that name


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(said, *words: str, code: int = 2) -> None:
    """The exit code, a message that holds all `words`, and no traceback."""
    assert said.code == code, said.all
    assert "Traceback" not in said.all and said.err.startswith(("tlmtl: ", "/")), said.all
    for word in words:
        assert word in said.err, f"{word!r} is not in {said.err!r}"


def nothing_written(folder: Path) -> None:
    assert not (folder / "outputs").exists(), sorted((folder / "outputs").rglob("*"))
    assert not (folder / "multirun").exists() and not (folder / ".hydra").exists()
