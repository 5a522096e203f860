"""Angles with a period of 90 degrees."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from grae_helpers import angles


def test_difference_spread_and_uniformity():
    np.testing.assert_allclose(angles.difference([44, -44, 10], [-44, 44, 20]), [-2, 2, -10])
    assert angles.difference(45, 0) == 45 and angles.difference(-45, 0) == 45
    near = np.array([44.0, -44.0, 45.0, -43.0])
    assert angles.spread(near) < 2
    generator = np.random.default_rng(0)
    values = np.array([angles.uniformity(generator.uniform(-45, 45, 40)) for _ in range(2000)])
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert angles.uniformity(generator.normal(44, 5, 40)) < 1e-6


@pytest.mark.parametrize("values", [[], [1.0, np.nan, 2.0]])
def test_no_angle_is_no_evidence(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(angles.spread(values)) and math.isnan(angles.uniformity(np.array(values)))
