"""Where a long command prints may go away before it ends: a terminal that is closed (`disown`, a lost ssh), a pipe whose
reader ends, a full disk below a log."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Lasting:
    """A stream like `stream`; what is written when that is no longer possible is written for nobody, and is no error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._or_nobody():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._or_nobody():
            self._stream.flush()

    @contextlib.contextmanager
    def _or_nobody(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # what is still in buffers, and what other code writes, has to go somewhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


own = False  # whether this process is the command line's, and nobody else's code runs in it


def outlive() -> None:
    """From now on the program, which has this process to itself, outlives its standard output and standard error."""
    global own
    own = True
    for name in ("stdout", "stderr"):
        if stream := getattr(sys, name):
            setattr(sys, name, Lasting(stream))
