"""Our layers against those of `transformers`, forward and backward, with the same weights.

The reference's results are stored, so that this needs no torch; where torch and transformers can be
imported, they are made afresh and hold both ours and the stored ones.
"""

import importlib.util

import numpy as np
import pytest

from tests.parity import CASES, STORED
from tests.parity.layers import Arrays, actual, expected, group

TOLERANCE = 1e-5
MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def stored() -> Arrays:
    with np.load(STORED) as file:
        return dict(file)


def compare(ours: Arrays, theirs: Arrays) -> None:
    """Holds the relative norm of the difference below the tolerance, name by name."""
    assert ours.keys() == theirs.keys()
    wrong = {}
    for name, x in theirs.items():
        assert ours[name].shape == x.shape, name
        error = np.linalg.norm(ours[name] - x) / np.linalg.norm(x)
        if not error <= TOLERANCE:
            wrong[name] = error
    assert wrong == {}


@pytest.mark.parametrize("name", CASES)
def test_ours_equals_the_stored_reference(name, stored):
    vectors = group(stored, f"{name}/")
    compare(actual(CASES[name], vectors), expected(CASES[name], vectors))


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.parametrize("name", CASES)
def test_ours_and_the_stored_equal_a_fresh_reference(name, stored):
    from tests.parity.make_vectors import make

    fresh = make(CASES[name])
    compare(actual(CASES[name], fresh), expected(CASES[name], fresh))
    compare(group(stored, f"{name}/"), fresh)


def test_the_file_names_its_versions_and_holds_no_other_case(stored):
    assert '"transformers"' in str(stored["versions"])
    assert {name.split("/")[0] for name in stored} == {"versions", *CASES}
