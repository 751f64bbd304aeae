"""How charts look, and how one figure serves the page (in light and dark) and a file."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each colour is a variable of the page's style sheet, which has another value for a dark screen (`page.css`). Series are
# told apart by hue with any colour vision (darkened from Okabe and Ito's), and by marker and label as well.
INK, MUTED, LINE, PAPER, ACCENT = "#1c2128", "#57606a", "#d5dae0", "#fffffe", "#0b62a5"
SERIES = ["#0b62a4", "#b8450b", "#00755c", "#8a3f97", "#8f6200", "#5a6572", "#c02660"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
DASHES: list[Any] = ["-", (0, (4, 1.6)), (0, (1, 1.2))]
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper", ACCENT: "accent"}
VARIABLES |= {colour: f"c{number}" for number, colour in enumerate(SERIES)}
WIDTH = 4.4  # inches: on a phone a point is then about a pixel
STYLE: dict[Any, Any] = {
    "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED, "text.color": INK, "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED, "grid.color": LINE, "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.linewidth": 0.8,
    "axes.labelsize": 9.5, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlecolor": INK, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "xtick.major.size": 3, "ytick.major.size": 0,
    "legend.frameon": False, "legend.fontsize": 8.5, "svg.hashsalt": "tlmtl", "svg.fonttype": "none",
    "figure.facecolor": PAPER, "axes.facecolor": "none", "savefig.facecolor": PAPER, "path.simplify_threshold": 0.5,
}  # fmt: skip


@dataclass
class Chart:
    """One picture: for the page and, under `name`, for a file."""

    name: str
    title: str
    figure: "Figure"
    alt: str  # what it shows, for those who do not see it
    caption: str = ""
    tips: dict[str, str] = field(default_factory=dict)  # by an artist's gid: what is said where a pointer rests on it

    def svg(self) -> str:
        """For the page: colours by variable, the page's own font, names that no other picture has."""
        text = StringIO()
        with styled():
            self.figure.savefig(text, format="svg", metadata={"Date": None})
        return _inline(text.getvalue(), self.name, self.alt, self.tips)

    def save(self, folder: Path) -> None:
        """NAME.png and NAME.svg in `folder`."""
        from tlmtl import files

        for kind, about in (("png", {"Software": None}), ("svg", {"Date": None})):
            content = BytesIO()
            with styled():
                self.figure.savefig(content, format=kind, dpi=200, metadata=about)
            files.write(folder / f"{self.name}.{kind}", _writer(content.getvalue()))


def blank(height: float) -> "tuple[Figure, Axes]":
    """An empty picture, `height` inches high."""
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


@contextmanager
def styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def look(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of the series with that number."""
    return {"color": SERIES[number % len(SERIES)], "marker": MARKERS[number % len(MARKERS)],
            "linestyle": DASHES[number // len(SERIES) % len(DASHES)]}  # fmt: skip


def log_tick(value: float, _: object = None) -> str:
    """Ticks of a logarithmic axis: 1, 2 and 5 of each power of ten."""
    return f"{value:,.10g}" if f"{value:.5e}"[0] in "125" else ""


def short(label: str, most: int) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def plain(label: str) -> str:
    """`label` as matplotlib shall print it: a dollar is no mathematics."""
    return label.replace("$", r"\$")


def _writer(content: bytes) -> Callable[[Path], object]:
    return lambda temporary: temporary.write_bytes(content)


def _inline(svg: str, name: str, alt: str, tips: dict[str, str]) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)  # it would style the whole page
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", svg)
    svg = re.sub(r" font-family: [^;\"]*[;]?", "", svg)
    svg = re.sub(r"font: ([^;\"']*?)('[^;\"]*)", lambda m: _font(m[1]), svg)
    svg = svg.replace('transform="rotate(-0 ', 'data-t="(').replace("\n", " ")
    svg = re.sub(r' data-t="[^"]*"', "", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--{VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], svg)
    for gid, said in tips.items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}" class="tip"><title>{escape(said)}</title>', 1)
    used = set(re.findall(r'(?:url\(#|xlink:href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(r' (?:d|x|y|transform|points)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), svg)
    svg = re.sub(r"\s{2,}", " ", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}" class="chart"', 1)


def _font(size: str) -> str:
    """`font: bold 10px 'DejaVu Sans', ...` without the family, which the page has of its own."""
    weight = " ".join(word for word in size.split() if not word.endswith("px"))
    pixels = next((word for word in size.split() if word.endswith("px")), "10px")
    return f"font-size: {pixels}" + (f"; font-weight: {weight}" if weight else "")
