"""How sure a difference is: pure functions of numbers. Which numbers are compared: `baseline.py`, `testset.py`.

SciPy's own functions agree with these (`tests/test_stats.py`). They are not called because `import scipy.stats` takes about
as long as all the rest of `compare`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.975  # of a two-sided interval of 95 %
EXACT = 20  # pairs up to which all flips of signs are looked at
FLIPS = 100_000  # drawn beyond that
RESAMPLES = 2_000
SEED = 0
TIE = 1e-9  # sums that differ by less, relative to the sum of sizes, are equal but for rounding


@dataclass(frozen=True)
class Paired:
    """What `n` paired differences say of their mean. Everything is NaN without a pair; `half` with one, too."""

    mean: float
    half: float  # half of the 95 % t-interval of the mean
    p: float  # two-sided, of the sign-flip permutation test
    least_p: float  # the smallest that n pairs can reach
    n: int


def paired(differences: ArrayLike) -> Paired:
    """Mean, 95 % t-interval and sign-flip p of `differences` (n,), one for each pair; those that are not finite are left out.

    Where all differences are equal the interval has no width: seeds that agree to the last digit say nothing of chance.
    """
    found = np.asarray(differences, dtype=float)
    found = found[np.isfinite(found)]
    n = len(found)
    if not n:
        return Paired(np.nan, np.nan, np.nan, np.nan, 0)
    half = half_width(found.std(ddof=1), n) if n > 1 else np.nan
    return Paired(float(found.mean()), float(half), sign_flip(found), least_p(n), n)


def half_width(sd: ArrayLike, n: ArrayLike) -> Floats:
    """Half of the 95 % t-interval of the mean of `n` values with standard deviation `sd` (ddof 1); NaN below two."""
    from scipy.special import stdtrit

    count = np.asarray(n, dtype=float)
    several = np.where(count > 1, count, np.nan)
    half: Floats = stdtrit(several - 1, CONFIDENCE) * np.asarray(sd, dtype=float) / np.sqrt(several)
    return half


def sign_flip(differences: ArrayLike) -> float:
    """p of the hypothesis that each of `differences` (n,), n at least 1, is as likely with the other sign; two-sided.

    The share of all 2^n choices of signs whose sum is at least as far from 0 as the sum found (Fisher 1935, section 21). Up
    to 20 differences every choice is looked at; beyond, 100,000 are drawn with a fixed seed, and the one found is counted
    among them (Phipson & Smyth 2010), so that p is never 0. Differences of 0 count: all 0 give 1.
    """
    found = np.asarray(differences, dtype=float)
    seen = abs(found.sum()) - TIE * np.abs(found).sum()
    if len(found) > EXACT:
        generator = np.random.default_rng(SEED)
        far = 0
        for drawn in np.array_split(np.arange(FLIPS), 10):
            signs = generator.integers(0, 2, (len(drawn), len(found))) * 2 - 1
            far += int((np.abs(signs @ found) >= seen).sum())
        return (far + 1) / (FLIPS + 1)
    sums = found[:1]  # the other half of all choices are these with the opposite signs
    for value in found[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= seen).mean())


def least_p(n: int) -> float:
    """The smallest p that `sign_flip` can give for `n` pairs: 2 of 2^n choices of signs; 1, .5, .25, .125, .0625, .03125 ..."""
    return max(2.0 ** (1 - n), 1 / (FLIPS + 1) if n > EXACT else 0.0)


def holm(ps: ArrayLike) -> Floats:
    """`ps` (m,) corrected for looking at all of them: the chance of even one false alarm stays below the level that they are
    read at (Holm 1979). NaN entries were not looked at, do not count, and stay NaN."""
    found = np.asarray(ps, dtype=float)
    corrected = np.full(found.shape, np.nan)
    there = np.flatnonzero(~np.isnan(found))
    order = there[np.argsort(found[there], kind="stable")]
    steps = found[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def resamples(n: int, count: int = RESAMPLES) -> NDArray[np.uint8]:
    """How often each of `n` examples is in each of `count` samples drawn with replacement: (count, n), the same each time."""
    generator = np.random.default_rng(SEED)
    drawn = np.empty((count, n), dtype=np.uint8)  # 255 times the same of n by chance: less than 1 in 10^500
    for at in range(count):
        drawn[at] = np.bincount(generator.integers(0, n, n), minlength=n)
    return drawn


def bootstrap(values: ArrayLike) -> tuple[float, float]:
    """The percentile interval (95 %) of a figure, from its value in each resample (Efron & Tibshirani 1993, chapter 13).
    Resamples in which it is not defined (NaN) are left out; NaN, NaN where it is in none."""
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    if not len(found):
        return np.nan, np.nan
    low, high = np.percentile(found, [100 * (1 - CONFIDENCE), 100 * CONFIDENCE])
    return float(low), float(high)


def pareto(quality: ArrayLike, cost: ArrayLike) -> NDArray[np.bool_]:
    """Which of m points no other one beats: none is at least as good (`quality` (m,), higher is better) and as cheap (`cost`
    (m,), lower is better), and better in one of the two. A point that lacks either is not on the front."""
    good, dear = np.asarray(quality, dtype=float), np.asarray(cost, dtype=float)
    front = np.zeros(good.shape, dtype=bool)
    there = np.flatnonzero(np.isfinite(good) & np.isfinite(dear))
    best = -np.inf  # of all that are cheaper
    order = there[np.lexsort((-good[there], dear[there]))]
    for at, index in enumerate(order):
        twin = at > 0 and front[order[at - 1]] and good[index] == best and dear[index] == dear[order[at - 1]]
        if good[index] > best or twin:
            front[index], best = True, good[index]
    return front
