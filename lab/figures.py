"""Medians, spreads and confidence intervals of repeated measurements. Pure functions."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

# Of a bootstrap. The same every time, so that the same measurements give the same page.
RESAMPLES = 2000
SEED = 1


def summary(values: Sequence[float]) -> dict[str, float] | None:
    """Median, least and most; None where nothing was measured."""
    if not values:
        return None
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "n": len(values)}


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float] | None:
    """The median of theirs / ours over pairs measured in turns, and its 95 % confidence interval, by
    bootstrap. None for fewer than three pairs, whose interval says nothing."""
    ratios = [b / a for a, b in zip(ours, theirs)]
    if len(ratios) < 3:
        return None
    generator = random.Random(SEED)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return {"median": statistics.median(ratios), "low": medians[int(0.025 * RESAMPLES)],
            "high": medians[int(0.975 * RESAMPLES)], "pairs": len(ratios)}
