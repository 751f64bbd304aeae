"""The command line of `tlmtl predict`: flags to calls."""

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tlmtl predict", add_help=False, allow_abbrev=False)
    add = made.add_argument
    add("run", metavar="RUN")
    add("paths", nargs="*", metavar="PATH")
    add("--out", type=Path)
    add("--top", type=_positive, default=1)
    add("--image")
    add("--delimiter")
    add("--encoding", default="utf-8")
    add("--batch-size", type=_positive, default=32)
    add("--engine", default="auto")
    add("--allow", action="append", default=[])
    return made


def main(argv: list[str]) -> int:
    """Runs `tlmtl predict`. Returns 0, or 1 when some of the images could not be read. Raises ConfigError for bad input,
    and then has written nothing."""
    made = parser()
    options = made.parse_intermixed_args(argv)
    if not options.paths:
        made.error("expected images: files, folders, a CSV file, or - for names on standard input")
    from tlmtl import files
    from tlmtl.predict import inputs, output, sweep

    sweep.refuse(Path(options.run).expanduser())
    output.check(options.out)
    named, notes = inputs.gather(options.paths, options.image, options.delimiter, options.encoding)
    for note in notes:
        print(note, file=sys.stderr)
    if options.allow and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where a user's own package lies
    from tlmtl.predict.model import load
    from tlmtl.predict.run import Told, predictions

    trained, told = load(Path(options.run).expanduser(), options.allow), Told()
    with files.disk_errors():
        rows = predictions(trained, named, options.top, options.batch_size, told, options.engine)
        output.write(rows, options.out)
    if told.bad:
        shown = "; ".join(f"{name}: {reason}" for name, reason in told.bad[:3])
        print(f"{len(told.bad)} of {told.images} files could not be read ({shown}).", file=sys.stderr)
    if options.out:
        print(f"{told.images - len(told.bad)} predictions written to {options.out}.", file=sys.stderr)
    return 1 if told.bad else 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number, 1 or more, found '{text}'")
    return int(text)
