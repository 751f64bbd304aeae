"""Charts of mistakes: a confusion matrix, and a sheet of the images that a model was worst at."""

import io

import numpy as np
from numpy.typing import NDArray

from tlmtl.report import style
from tlmtl.report.mistakes import Wrong, name
from tlmtl.report.style import Chart

CLASSES = 30  # of a matrix; beyond, a list of the most frequent confusions says more
NUMBERED = 12  # classes up to which cells hold their count
DENSE = 0.62  # opacity of a full cell: figures in it can be read on light and dark


def matrix(file: str, title: str, counts: NDArray[np.int64], classes: list[str]) -> Chart:
    """Counts (K, K) with true classes as rows, each shaded by its share of its row."""
    size = len(counts)
    names = [style.plain(style.short(name(classes, at), 12)) for at in range(size)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    long = max(map(len, names)) > 3
    with style.styled():
        figure, axes = style.blank(4.2 if size > 6 else 3.4)
        from matplotlib.patches import Rectangle

        for true, said in zip(*np.nonzero(counts), strict=True):
            shade = DENSE * float(shares[true, said]) ** 0.6  # rare mistakes are to be seen, too
            colour = style.ACCENT if true == said else style.SERIES[1]
            axes.add_patch(
                Rectangle((said - 0.48, true - 0.48), 0.96, 0.96, facecolor=colour, alpha=shade, linewidth=0)
            )
            if size <= NUMBERED:
                axes.text(said, true, str(counts[true, said]), ha="center", va="center", fontsize=8.5)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_xticks(range(size), names, rotation=90 if long else 0)
        axes.set_yticks(range(size), names)
        axes.tick_params(length=0, labelsize=8.5 if size <= 20 else 6.5)
        axes.set_xlabel("what the model said")
        axes.set_ylabel("true class")
        for side in axes.spines.values():
            side.set_visible(False)
    right = int(np.diag(counts).sum())
    return Chart(
        file,
        title,
        figure,
        f"Confusion matrix of {size} classes: {right:,} of {counts.sum():,} right",
        f"{right:,} of {counts.sum():,} test examples are right (the diagonal). Shade: share of the true class.",
    )


def sheet(file: str, title: str, wrong: list[Wrong], images: dict[str, bytes]) -> Chart:
    """The images (PNG files) that the model was worst at, with what is true and what it said; for a file."""
    from matplotlib.figure import Figure
    from PIL import Image

    shown = [one for one in wrong if one.id in images]
    across = 4
    down = -(-len(shown) // across)
    with style.styled():
        figure = Figure((style.WIDTH * 1.4, 1.9 * down), layout="constrained")
        for at, one in enumerate(shown):
            axes = figure.add_subplot(down, across, at + 1)
            pixels = np.asarray(Image.open(io.BytesIO(images[one.id])).convert("RGB"))
            axes.imshow(pixels, interpolation="nearest")
            axes.set_axis_off()
            truth = [f"true {style.short(one.truth, 18)}"] if one.truth else []
            axes.set_title(
                style.plain("\n".join([*truth, f"said {style.short(one.said, 18)}"])), fontsize=8, fontweight="normal"
            )
    return Chart(file, title, figure, "Worst-predicted images")
