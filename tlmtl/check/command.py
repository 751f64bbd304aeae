"""`tlmtl check`: its flags (torch-free), and what happens in which order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlmtl.errors import ConfigError


@dataclass
class Flags:
    sheet: Path | None = None  # below output.root when not given
    everything: bool = False


def parse(words: list[str]) -> tuple[list[str], Flags]:
    """The words that are Hydra's, and this command's own flags. Raises ConfigError for a picture that is no PNG."""
    rest, flags, left = [], Flags(), list(words)
    while left:
        word = left.pop(0)
        if word == "--all":
            flags.everything = True
        elif word == "--sheet" or word.startswith("--sheet="):
            name = word.partition("=")[2] or (left.pop(0) if left and word == "--sheet" else "")
            if Path(name).suffix.lower() != ".png":
                raise ConfigError(f"Expected --sheet to name a PNG file, such as images.png; found '{name}'.")
            flags.sheet = Path(name).expanduser()
        else:
            rest.append(word)
    return rest, flags


def run(cfg: Any, flags: Flags) -> int:
    """Look at the data set (at each part of a joint one), print what was found, draw pictures. Returns the exit code."""
    from tlmtl.check import tell

    name, out = str(cfg.composed.choices.get("dataset", "dataset")).replace("/", "-"), tell.console()
    parts = _parts(cfg)
    if flags.sheet and len(parts) > 1:
        raise ConfigError("--sheet names one picture, and a joint data set has one for each part: leave it out.")
    codes = [_look(one, f"{name}-{part}" if part else name, part, flags, out) for part, one in parts.items()]
    return max(codes)


def _parts(cfg: Any) -> dict[str, Any]:
    """By part of a joint data set, its config as that of a data set alone; else the config itself, under no name."""
    from tlmtl.data.parts import joint_of

    if joint_of(cfg.dataset, list(cfg.allow)) is None:
        return {"": cfg}
    found = {}
    for part in map(str, cfg.dataset.parts):
        found[part] = cfg.copy()
        found[part].dataset, found[part].tasks = cfg.dataset.parts[part], "default"
    return found


def _look(cfg: Any, name: str, part: str, flags: Flags, out: Any) -> int:
    from tlmtl import files
    from tlmtl.check import sheet, survey, tell

    if part:
        out.print(f"dataset.parts.{part}", style="bold", markup=False)
    found = survey.survey(cfg)
    tell.show(found, cfg, out, flags.everything)
    if cfg.evaluate.also:
        out.print(
            f"Not looked at here: the further test sets of evaluate.also ({', '.join(map(str, cfg.evaluate.also))})."
        )
    path = flags.sheet or Path(cfg.output.root) / "check" / f"{name}.png"
    files.make_folder(path.parent, "--sheet" if flags.sheet else "output.root")
    with files.disk_errors():
        about = sheet.draw(found, cfg, path)
    out.print(f"Picture: {path} ({about})", markup=False, soft_wrap=True)
    return 1 if found.refused else 0
