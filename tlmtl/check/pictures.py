"""The images themselves: how large, which kinds of file, and how much of their range is used."""

from collections import Counter

import numpy as np

from tlmtl.check.finding import Finding, some
from tlmtl.data.examples import Examples
from tlmtl.preprocess import Preprocess

MODES = {
    "L": "grey", "1": "black and white", "LA": "grey with transparency", "RGB": "colour", "P": "palette",
    "RGBA": "colour with transparency", "CMYK": "colour for print", "I;16": "16-bit grey", "I;16B": "16-bit grey",
    "I;16L": "16-bit grey", "I": "32-bit grey", "PA": "palette with transparency",
}  # fmt: skip
DEEP = 32  # deep images that are opened again to see their range
DIM = 0.25  # of the range of 16 bits: what uses less looks dark in 8
CROPPED = 0.5  # share of an image that a crop may cost without a word


def sizes(examples: Examples) -> Counter[tuple[int, int]]:
    """How many images have which (width, height)."""
    facts = examples.images.facts
    if facts is not None:
        return Counter(zip(facts.width.tolist(), facts.height.tolist(), strict=True))
    pixels = getattr(examples.images, "pixels", None)
    return Counter({(pixels.shape[-1], pixels.shape[-2]): len(pixels)} if pixels is not None else {})


def kinds(examples: Examples) -> Counter[str]:
    """How many images are of which kind, in words."""
    if (facts := examples.images.facts) is not None:
        return Counter(MODES.get(mode, mode) for mode in facts.mode.tolist())
    return Counter({"grey" if examples.images.channels == 1 else "colour": len(examples)})


def as_taken(preprocess: Preprocess, examples: Examples) -> str:
    """What a model makes of the images' geometry, in words."""
    mixed = len(sizes(examples)) > 1
    used = preprocess.cropped() if mixed else preprocess
    crop = f", of that the middle {used.crop}x{used.crop}" if used.crop else ""
    return f"the shorter side at {used.resize} pixels{crop}"


def findings(examples: Examples, preprocess: Preprocess) -> list[Finding]:
    """What is to be said of the images before a model with that pre-processing takes them."""
    found = sizes(examples)
    said = []
    kept = Counter({size: _kept(*size, preprocess, len(found) > 1) for size in found})
    cut = [size for size in found if kept[size] < 1 - CROPPED]
    if count := sum(found[size] for size in cut):
        worst = min(cut, key=lambda size: kept[size])
        text = (
            f"{some(count, 'image')} of {len(examples):,} {'loses' if count == 1 else 'lose'} more than {CROPPED:.0%} to the "
            f"model's crop: of {worst[0]}x{worst[1]} pixels, {kept[worst]:.0%} are kept."
        )
        said.append(Finding(text, advice="See the picture whether what matters is still in it."))
    small = sum(count for (width, height), count in found.items() if min(width, height) < preprocess.resize / 2)
    if small:
        text = (
            f"{some(small, 'image')} of {len(examples):,} {'is' if small == 1 else 'are'} enlarged more than twice: the model "
            f"takes {preprocess.resize} pixels (model.image_size)."
        )
        said.append(Finding(text))
    return said + _dim(examples)


def _kept(width: int, height: int, preprocess: Preprocess, mixed: bool) -> float:
    """The share of an image that is left after resize and crop."""
    used = preprocess.cropped() if mixed else preprocess
    if used.crop is None:
        return 1.0
    scale = used.resize / min(width, height)
    return min(1.0, used.crop / (width * scale)) * min(1.0, used.crop / (height * scale))


def _dim(examples: Examples) -> list[Finding]:
    """Deep images (16 bits and more) that use a small part of their range, looked for in the first of them."""
    facts = examples.images.facts
    if facts is None or not hasattr(examples.images, "opened"):
        return []
    deep = np.flatnonzero(np.char.startswith(facts.mode.astype(str), "I"))[:DEEP].tolist()
    names = []
    for i in deep:
        values = np.asarray(examples.images.opened(i))
        if (high := int(values.max())) < DIM * 65535:
            names.append(f"{examples.ids[i]}: {int(values.min()):,} to {high:,}")
    if not names:
        return []
    use = "uses" if len(names) == 1 else "use"
    text = (
        f"{len(names)} of {some(len(deep), 'deep image')} looked at (16 bits) {use} less than {DIM:.0%} of the range."
    )
    advice = "They are divided by 257 to make 8 bits, and will look dark: stretch them to 0 to 65,535, all by the same factor."
    return [Finding(text, names, advice)]
