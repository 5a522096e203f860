"""The `claim` fixture: a test that supports a claim of the book says so, and fails if the ledger says otherwise."""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pytest

from tools import claims
from tools.project import Project


def verdict(*, printed: bool, corrected: bool = False) -> str:
    """What was found of a statement: whether it is true as printed, and as corrected."""
    return "holds" if printed else "holds as corrected" if corrected else "refuted"


@cache
def entries() -> tuple[dict, ...]:
    return tuple(claims.load(Project()))


class Claims:
    """What one test says about the ledger's claims; call it with an id, the verdict and, if any, the numbers."""

    def __init__(self, test: str, ledger: Sequence[dict]):
        self.test, self.ledger, self.made = test, {entry["id"]: entry for entry in ledger}, set()

    def __call__(self, name: str, verdict: str, *, ours: object = None) -> None:
        """The test has found `verdict` for the claim `name`, and `ours` where the ledger has numbers of ours."""
        entry = self.ledger.get(name)
        assert entry, f"book/claims.yml has no claim {name!r}"
        assert entry.get("test") == self.test, f"{name}: the ledger names {entry.get('test')}, claimed by {self.test}"
        assert verdict == entry["verdict"], f"{name}: this test finds {verdict!r}, the ledger {entry['verdict']!r}"
        assert (ours is None) == ("ours" not in entry), f"{name}: the ledger has {entry.get('ours')}, got {ours}"
        if ours is not None:
            _compare(name, ours, entry["ours"], entry["tolerance"])
        self.made.add(name)

    def missing(self) -> list[str]:
        """The claims that the ledger supports by this test, and that it did not make."""
        named = {name for name, entry in self.ledger.items() if entry.get("test") == self.test}
        return sorted(named - self.made)


def _compare(name: str, ours: object, expected: object, tolerance: float) -> None:
    found, written = np.asarray(ours, dtype=float), np.asarray(expected, dtype=float)
    assert found.shape == written.shape, f"{name}: expected {written.size} numbers, got {found.size}"
    close = np.abs(found - written) <= tolerance  # false for NaN
    assert close.all(), f"{name}: the ledger has {expected} ± {tolerance}, this test finds {found.tolist()}"


@pytest.fixture
def claim(request) -> Iterator[Claims]:
    """Called by a test as `claim(id, verdict, ours=…)`; the test must make every claim that names it."""
    test = request.node.nodeid.split("[")[0].split("@")[0]  # without its parameters and its group
    found = Claims(test, entries())
    failed = request.session.testsfailed
    yield found
    if request.session.testsfailed == failed and (missing := found.missing()):
        pytest.fail(f"{found.test} did not claim {', '.join(missing)}, which the ledger supports by it")
