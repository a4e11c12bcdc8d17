"""A sample has its share of the mutants, and that of another commit has others."""

import pytest

from tests.mutants.conftest import in_sample

pytestmark = pytest.mark.workers(1)

NAMES = [f"mutant_{i}" for i in range(1000)]


def sample(commit: str) -> set[str]:
    return {name for name in NAMES if in_sample(name, commit, 4)}


def test_a_sample_has_its_share_and_leaves_no_other_test_out():
    assert 200 < len(sample("one")) < 300
    assert in_sample(None, "one", 4)
    assert all(in_sample(name, "one", 1) for name in NAMES)


def test_other_commits_try_other_mutants():
    assert len(sample("one") - sample("two")) > 100
    assert set.union(*(sample(f"commit {i}") for i in range(40))) == set(NAMES)
