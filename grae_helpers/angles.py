"""Statistics of rotation angles in (−45, 45] degrees, where −45° and 45° are the same axes."""

import numpy as np
from scipy import stats


def difference(angle: np.ndarray, other: np.ndarray) -> np.ndarray:
    """angle − other in (−45, 45] degrees: 45° and −45° are the same axes.

    >>> float(difference(44.0, -44.0))
    -2.0
    """
    return 45 - np.mod(45 - (np.asarray(angle, dtype=float) - np.asarray(other, dtype=float)), 90)


def spread(angles: np.ndarray) -> float:
    """Circular standard deviation of angles with period 90°, in degrees; infinite where they cancel.

    NaN where there is no angle, or one is NaN.

    >>> round(spread([44.0, -44.0]), 3)
    1.0
    """
    return float(stats.circstd(angles, high=45, low=-45)) if np.size(angles) else float("nan")


def uniformity(angles: np.ndarray) -> float:
    """p-value of Rayleigh's test that angles with period 90° are uniform (Zar 1999, Eq. 27.4).

    NaN where there is no angle, or one is NaN: a trial that diverged must not count as evidence of uniformity.

    >>> uniformity(np.linspace(-45, 45, 30, endpoint=False)) > 0.99, uniformity(np.linspace(-5, 5, 30)) < 1e-6
    (True, True)
    """
    turns = np.exp(4j * np.radians(angles))
    n, length = turns.size, abs(turns.sum())
    p = np.exp(np.sqrt(1 + 4 * n + 4 * (n**2 - length**2)) - (1 + 2 * n))
    return float(np.minimum(1.0, p)) if n else float("nan")
