"""A terminal that may be closed while the program goes on, as one is whose job was left to itself (`disown`, a lost ssh)."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Terminal:
    """A stream like `stream`; what is written after the terminal is gone is written for nobody, and is no error."""

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


def outlive() -> None:
    """From now on standard output and standard error outlive the terminals that they are, if they are any."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream.isatty():
            setattr(sys, name, Terminal(stream))
