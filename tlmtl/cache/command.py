"""The command line of `tlmtl cache`: flags to calls, and what is said of them."""

import argparse
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tlmtl.errors import ConfigError

UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tlmtl cache", allow_abbrev=False)
    add = made.add_argument
    add("--cache", type=Path, metavar="DIR")
    add("--verify", action="store_true")
    add("--repair", action="store_true")
    add("--prune", type=_megabytes, metavar="MB")
    add("--older-than", type=_age, metavar="AGE")
    add("--clear", nargs="?", const="all", metavar="KIND")
    add("--yes", action="store_true")
    return made


def main(argv: list[str]) -> int:
    """Runs `tlmtl cache`. Returns 0, or 1 when something is broken or could not be removed; raises ConfigError."""
    options = parser().parse_args(argv)
    root = _folder(options)
    if options.verify or options.repair:
        return _verify(root, options.repair)
    if options.prune is not None or options.older_than is not None:
        return _prune(root, options.prune, options.older_than)
    if options.clear is not None:
        return _clear(root, options.clear, options.yes)
    from tlmtl.cache import tell

    tell.show(root)
    return 0


def _folder(options: argparse.Namespace) -> Path:
    from tlmtl import files

    chosen = [
        f"--{name}"
        for name, there in (
            ("verify", options.verify or options.repair),
            ("prune", options.prune is not None or options.older_than is not None),
            ("clear", options.clear is not None),
        )
        if there
    ]
    if len(chosen) > 1:
        raise ConfigError(f"Expected one thing to do, found {' and '.join(chosen)}: give them one after another.")
    if options.yes and options.clear is None:
        raise ConfigError("--yes goes with --clear: `tlmtl cache --clear --yes`.")
    root = files.cache_folder(None) if options.cache is None else options.cache.expanduser()
    if options.cache is not None and not root.is_dir():
        raise ConfigError(f"--cache should be a folder. Found {'a file' if root.exists() else 'nothing'} at {root}.")
    return root


def _verify(root: Path, repair: bool) -> int:
    from tlmtl.cache.tell import bytes_of
    from tlmtl.progress import counted
    from tlmtl.store import blocks, kept

    stores = [store for store in kept.stores(root) if store.ours]
    there = [(store, record) for store in stores for record in store.blocks]

    def fault(store: kept.Kept, record: Path) -> str:
        try:
            blocks.verify(blocks.read(record, store.folder.name), again=True)
        except (blocks.Broken, OSError) as error:
            return str(error) if record.exists() else ""  # a run may have removed it just now
        finally:
            tell()
        return ""

    with counted(len(there), "Reading what is kept") as tell, ThreadPoolExecutor(4) as pool:
        faults = list(pool.map(lambda one: fault(*one), there))
    broken = [(record, said) for (_, record), said in zip(there, faults, strict=True) if said]
    for record, said in broken:
        gone = repair and kept.drop(record)
        print(f"{record.parent}: {said}{'; removed' if gone else ''}")
    size = bytes_of(sum(store.size for store in stores))
    print(
        f"{_some(len(there), 'block')} in {_some(len(stores), 'store')} ({size}) read: {len(broken) or 'none'} broken."
    )
    if broken and not repair:
        print("`tlmtl cache --repair` removes them; a run that comes upon one makes its rows again.")
    return 1 if any(record.exists() for record, _ in broken) else 0


def _prune(root: Path, megabytes: int | None, age: float | None) -> int:
    from tlmtl.cache import contents
    from tlmtl.cache.tell import bytes_of
    from tlmtl.store import kept

    before = time.time() - age if age is not None else 0.0
    limit = sys.maxsize if megabytes is None else megabytes * 2**20
    gone = sum(size for _, size in kept.prune(root, limit, before=before))
    for entry in contents.entries(root):
        if entry.kind in contents.STORES and not entry.size:
            contents.remove(entry)  # nothing is left of it, unless rows are made for it now
        elif entry.used < before and entry.kind != contents.OTHER:
            said = contents.remove(entry)
            gone += 0 if said else entry.size
            if said:
                print(f"{entry.path} stays: {said}.", file=sys.stderr)
    print(f"Removed {bytes_of(gone)} from {root}.")
    return 0


def _clear(root: Path, kind: str, yes: bool) -> int:
    from tlmtl.cache import contents
    from tlmtl.cache.tell import bytes_of
    from tlmtl.errors import nearest

    if kind != "all" and kind not in contents.KINDS:
        known = [*contents.KINDS, "all"]
        raise ConfigError(f"--clear takes one of {', '.join(known)}. Found '{kind}'.{nearest(kind, known)}")
    chosen = [one for one in contents.entries(root) if one.kind != contents.OTHER and kind in ("all", one.kind)]
    if not chosen:
        print(f"There is nothing of that in {root}.")
        return 0
    kinds = sorted({one.kind for one in chosen}, key=list(contents.KINDS).index)
    what = f"{', '.join(kinds)} ({bytes_of(sum(one.size for one in chosen))}) from {root}"
    if not yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise ConfigError(f"This would remove {what}. Without a terminal to ask at it needs --yes.")
        if input(f"Remove {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return 0
    said = {one.path: contents.remove(one) for one in chosen}
    for path, reason in said.items():
        if reason:
            print(f"{path} stays: {reason}.", file=sys.stderr)
    print(f"Removed {bytes_of(sum(one.size for one in chosen if not said[one.path]))} from {root}.")
    return 1 if any(said.values()) else 0


def _some(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _megabytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(MB|GB)?", text, re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"expected megabytes, such as 5000 or 5GB, found '{text}'")
    return round(float(found[1]) * (1024 if (found[2] or "").upper() == "GB" else 1))


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected an age, such as 36h, 30d or 8w, found '{text}'")
    return float(found[1]) * UNITS[found[2]]
