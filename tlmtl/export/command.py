"""The command line of `tlmtl export`: flags to calls, and what is told."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tlmtl.errors import ConfigError

if TYPE_CHECKING:
    from tlmtl.export.make import Made
    from tlmtl.export.place import Place

RUNTIME = {"onnx": "onnxruntime", "pt2": "a fresh process", "safetensors": "a fresh model"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tlmtl export", add_help=False, allow_abbrev=False)
    add = made.add_argument
    add("run", metavar="RUN")
    add("--format")
    add("--out", type=Path)
    add("--task", nargs="+", action="extend", metavar="NAME")
    add("--batch", type=_batch, default=None)
    add("--force", action="store_true")
    add("--allow", action="append", default=[])
    return made


def main(argv: list[str]) -> int:
    """Runs `tlmtl export`. Returns 0. Raises ConfigError for bad input, and then has written nothing; ExportError where the
    model does not go into the format."""
    options = parser().parse_args(argv)
    from tlmtl.export.place import choose
    from tlmtl.predict.sweep import refuse

    run = _expanded(options.run, "RUN")
    refuse(run)
    place = choose(options.format, options.out and _expanded(options.out, "--out"), run, options.force)
    if options.allow and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where a user's own package lies
    from tlmtl import stopping
    from tlmtl.export.make import export

    with stopping.watching():  # so that a signal leaves nothing half made
        made = export(run, place, options.task, options.batch, options.allow)
    print("\n".join(_told(place, made)))
    return 0


def _told(place: "Place", made: "Made") -> list[str]:
    takes, graph = made.about["input"], made.about["preprocess"]["in_model"]
    lines = [f"{place.model} ({made.bytes / 1e6:.1f} MB), described in {place.about}"]
    shape = " x ".join(map(str, takes["shape"]))
    lines.append(f"  in   {takes['name']}: {takes['dtype']} {shape}, {takes['colours']}{', resized' if graph else ''}")
    for name, one in made.about["outputs"].items():
        shape = " x ".join(map(str, one["shape"]))
        lines.append(f"  out  {name}: {one['dtype']} {shape}, {one['says']}")
    allowed, worst = made.about["compared"]["allowed"], max(made.agreement.difference.values())
    count, differ = made.agreement.labels
    labels = f", {differ or 'none'} of {count} labels {'differs' if differ == 1 else 'differ'}" if count else ""
    lines.append(
        f"Loaded again in {RUNTIME[place.form]}, and compared with the run's model on {made.images}: largest difference "
        f"{worst:.1e} (allowed {allowed:g}){labels}."
    )
    return lines


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"expected dynamic, or a number from 1 to 4096, found '{text}'")
    return int(text)


def _expanded(path: str | Path, where: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~somebody
        raise ConfigError(f"{where} cannot be found: {error}") from error
