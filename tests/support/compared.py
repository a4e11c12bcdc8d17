"""What this test has compared with an oracle so far, for the record of the test."""

from bench.report.proofs import Comparison

_COMPARED: list[Comparison] = []


def note(comparison: Comparison) -> None:
    """Add a comparison of the test that runs."""
    _COMPARED.append(comparison)


def take() -> list[Comparison]:
    """The comparisons since the last call."""
    taken = list(_COMPARED)
    _COMPARED.clear()
    return taken
