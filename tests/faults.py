"""A term that breaks a run in a way of one's choice, for tests of sweeps."""

import csv
import json
from pathlib import Path

WAYS = ("raise", "exit", "kill", "segfault", "memory", "grow", "hang", "notfinite", "full", "import")
# By way, what the row of such a run says.
SAID = {
    "raise": "ValueError: on purpose",
    "exit": "the process ended by exit code 3",
    "kill": "the process ended by SIGKILL (by hand, or by the system when memory ran out)",
    "segfault": "the process ended by SIGSEGV",
    "memory": "MemoryError: no more was said",
    "grow": "more than sweep.memory_limit_mb=",
    "hang": "took longer than sweep.time_limit=",
    "notfinite": "The term 'bad' became nan at step 2 of ",
    "full": "Could not write",
    "import": "ImportError: no such library here",
}
TERM = '''
import ctypes, os, resource, signal, time
from multiprocessing import parent_process
from tlmtl.terms.base import Term

WAYS = {ways}

class Bad(Term):
    """The way is named, or follows from the seed: from 40 on, each breaks in its own way."""

    def __init__(self, how: str = "", seed: int = 0):
        super().__init__()
        self.how = how or (WAYS[seed - 40] if seed >= 40 else "no")
        self.calls = 0
        if self.how == "import" and parent_process() is not None:
            raise ImportError("no such library here")

    def forward(self, step):
        self.calls += 1
        if self.calls >= 2:
            self.break_()
        nothing = step.outputs["target"].features.sum() * 0
        return nothing * float("nan") if self.calls >= 2 and self.how == "notfinite" else nothing

    def break_(self):
        if self.how == "raise":
            raise ValueError("on purpose")
        if self.how == "exit":
            os._exit(3)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "segfault":
            ctypes.string_at(0)
        if self.how == "memory":
            bytearray(1 << 50)
        if self.how == "grow":
            self.kept = b"x" * (600 << 20)
            time.sleep(60)
        if self.how == "hang":
            time.sleep(1000)
        if self.how == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        if self.how == "once" and not os.path.exists("tried"):
            open("tried", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "slow":
            time.sleep(0.2)
'''
QUICK = ("strategy=from_scratch", "train.epochs=3", "train.checkpoint_every=2st", "train.evaluate_every=50%")
BAD = ("allow=[bad_terms]", "+term.bad._target_=bad_terms.Bad")


def place(folder: Path) -> Path:
    """The term, where `allow=[bad_terms]` finds it."""
    (folder / "bad_terms.py").write_text(TERM.replace("{ways}", repr(WAYS)))
    return folder


def rows(cwd: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((cwd / "outputs/sweeps/latest/results.csv").open()))


def records(cwd: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(cwd.glob("outputs/sweeps/latest/*/run.json"))]
