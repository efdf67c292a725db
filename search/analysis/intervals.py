"""Intervals of paired differences and of shares, and p values that are judged together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIDENCE = 0.95
#: Below this a spread is rounding: float64 keeps 16 digits of values around 1.
_ROUNDING = 1e-12
#: No smaller chance is told from none.
_LEAST_P = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Where the mean difference lies, judged by the spread over the pairs."""

    low: float
    high: float
    p: float
    """Chance of a mean this far from 0, or farther, if nothing happened."""


def mean_interval(differences: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval | None:
    """The t-interval of the mean of paired differences; None where there is no spread to judge by."""
    from scipy import stats  # takes a second to import, and only this question needs it

    n = len(differences)
    if n < 2:
        return None
    centre, spread = mean(differences), sd(differences)
    if spread <= _ROUNDING:
        return Interval(low=0.0, high=0.0, p=1.0) if abs(centre) <= _ROUNDING else None
    error = spread / math.sqrt(n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    return Interval(low=centre - half, high=centre + half, p=float(2 * stats.t.sf(abs(centre) / error, n - 1)))


def welch_interval(
    first: Sequence[float], second: Sequence[float], *, confidence: float = CONFIDENCE
) -> Interval | None:
    """The interval of the mean of the first minus that of the second: independent values, which may spread differently
    (Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28). None where there is no spread to judge by.
    """
    from scipy import stats

    if min(len(first), len(second)) < 2:
        return None
    parts = [(sd(values) ** 2 / len(values), len(values) - 1) for values in (first, second)]
    variance = sum(part for part, _ in parts)
    if variance <= _ROUNDING**2:
        return None
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    difference, error = mean(first) - mean(second), math.sqrt(variance)
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    return Interval(low=difference - half, high=difference + half, p=p)


def wilson_interval(right: int, of: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of a share of independent cases: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, weight = right / of, z**2 / of
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / of + weight / (4 * of))
    return middle - half, middle + half


def mean_share_interval(shares: Sequence[tuple[int, int]], *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of the mean of independent shares, each as (right, of), such as the recalls of classes.

    It is put together from Wilson's interval of each (Zou and Donner 2008, https://doi.org/10.1002/sim.3095).
    """
    middles = [right / of for right, of in shares]
    ends = [wilson_interval(right, of, confidence=confidence) for right, of in shares]
    below = math.hypot(*(middle - low for middle, (low, _) in zip(middles, ends, strict=True)))
    above = math.hypot(*(high - middle for middle, (_, high) in zip(middles, ends, strict=True)))
    middle = mean(middles)
    return max(0.0, middle - below / len(shares)), min(1.0, middle + above / len(shares))


def crossed_interval(scores: "NDArray[np.float64]", *, confidence: float = CONFIDENCE) -> Interval | None:
    """The t-interval of the mean of (runs, cases) scores, where other runs and other cases would have come to others.

    Both are drawn at random, each run has met every case, and neither source of chance may be left out: the seeds of a
    training, and the images that it is tested on. The variance of the mean is that of the run means over the runs, and
    of the case means over the cases, less what is counted twice (Cornfield and Tukey 1956,
    https://doi.org/10.1214/aoms/1177728067). Each part is widened by the t of its own degrees of freedom, as Cochran
    (1964, https://doi.org/10.2307/2528224) does for two unequal variances: with Satterthwaite's common ones, three runs
    that happen to agree make the interval too narrow (it then held 90 % of made-up truths; this one 94 to 98 %).
    """
    from scipy import optimize, stats

    runs, cases = scores.shape
    if runs < 2 or cases < 2:
        return None
    centre = float(scores.mean())
    by_run = float(scores.mean(axis=1).var(ddof=1)) / runs
    by_case = float(scores.mean(axis=0).var(ddof=1)) / cases
    residual = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0, keepdims=True) + centre
    twice = float((residual**2).sum()) / ((runs - 1) * (cases - 1)) / (runs * cases)
    by_case = max(0.0, by_case - twice)
    if by_run + by_case <= _ROUNDING**2:  # all the spread there is, is taken for what was counted twice
        by_case = twice
    if by_run + by_case <= _ROUNDING**2:
        return Interval(low=centre, high=centre, p=1.0) if abs(centre) <= _ROUNDING else None

    def half(p: float) -> float:
        """Of the interval at this level."""
        of_runs, of_cases = (float(stats.t.isf(p / 2, count - 1)) for count in (runs, cases))
        return math.sqrt(of_runs**2 * by_run + of_cases**2 * by_case)

    p = float(optimize.brentq(lambda p: half(p) - abs(centre), _LEAST_P, 1.0)) if abs(centre) < half(_LEAST_P) else 0.0
    return Interval(low=centre - half(1 - confidence), high=centre + half(1 - confidence), p=p)


def holm(ps: Sequence[float]) -> list[float]:
    """The p values adjusted by Holm's method, in the given order."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


def mean(values: Sequence[float]) -> float:
    """The mean, summed without rounding."""
    return math.fsum(values) / len(values)


def sd(values: Sequence[float]) -> float:
    """The standard deviation of at least two values, with n - 1."""
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))
