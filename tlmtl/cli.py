"""The front door: finds the command, answers `--help` at once, turns errors into messages and exit codes.

Exit codes: 0 done, 1 a run failed or a check found what would be refused, 2 a wrong command or config, 75 preempted, 130
interrupted. Nothing here imports torch or Hydra before a command needs them.
"""

import gc
import os
import sys

from tlmtl import __version__, stopping, terminal
from tlmtl.errors import ConfigError, Stopped, TlmtlError, nearest
from tlmtl.help import HELP

COLLECT = (10_000, 20, 50)  # new objects between two looks for garbage: Python's own 700 take a quarter of a start
COMMANDS = ("train", "check", "predict", "export", "compare", "report", "list", "cache")


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        gc.set_threshold(*COLLECT)
        if words[:1] == ["train"]:
            terminal.outlive()
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = dispatch(words)
        sys.stdout.flush()  # a closed pipe is told here, not by the interpreter's own last words
        if argv is None:  # at its end Python looks through all objects for those to collect: 1.2 s with torch and timm
            gc.freeze()
        return code
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"\nInterrupted.{_goes_on(words)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as error:  # argparse has said what is wrong
        return int(error.code or 0)
    except Stopped as error:
        if argv is None:
            stopping.ignore()
        print(f"\n{error}{_goes_on(words)}", file=sys.stderr)
        return error.exit_code
    except TlmtlError as error:
        if debug:
            raise
        print(f"tlmtl: {error}", file=sys.stderr)
        return error.exit_code


def _goes_on(words: list[str]) -> str:
    return " The same command goes on where it stopped." if words[:1] == ["train"] else ""


def dispatch(words: list[str]) -> int:
    if words[:1] in (["-sc"], ["--shell-completion"]):  # the shell asks: `tlmtl -sc query=bash`
        from tlmtl.commands import complete

        return complete(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP["tlmtl"])
        return 0 if words else 2
    if "--version" in words or words[0] == "-V":
        print(f"tlmtl {__version__}")
        return 0
    command, *rest = words
    if command not in COMMANDS:
        raise ConfigError(
            f"Unknown command '{command}'.{nearest(command, list(COMMANDS))} Commands: {', '.join(COMMANDS)}."
        )
    if "-h" in rest or "--help" in rest:
        print(HELP[command])
        return 0
    if command == "compare":
        from tlmtl.compare.command import main as compare

        return compare(rest)
    if command == "predict":
        from tlmtl.predict.command import main as predict

        return predict(rest)
    if command == "export":
        from tlmtl.export.command import main as export

        return export(rest)
    if command == "report":
        from tlmtl.report.command import main as report

        return report(rest)
    if command == "cache":
        from tlmtl.cache.command import main as cache

        return cache(rest)
    from tlmtl import commands

    behind = {"train": commands.train, "check": commands.check, "list": commands.show}
    return behind[command](rest)
