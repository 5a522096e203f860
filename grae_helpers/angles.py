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

    >>> round(spread([44.0, -44.0]), 3)
    1.0
    """
    return float(stats.circstd(angles, high=45, low=-45))


def uniformity(angles: np.ndarray) -> float:
    """p-value of Rayleigh's test that angles with period 90° are uniform (Zar 1999, Eq. 27.4).

    >>> uniformity(np.linspace(-45, 45, 30, endpoint=False)) > 0.99, uniformity(np.linspace(-5, 5, 30)) < 1e-6
    (True, True)
    """
    turns = np.exp(4j * np.radians(angles))
    n, length = turns.size, abs(turns.sum())
    return float(min(1.0, np.exp(np.sqrt(1 + 4 * n + 4 * (n**2 - length**2)) - (1 + 2 * n))))
