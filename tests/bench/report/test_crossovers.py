"""Latency, bandwidth and the crossover are found again where they were planted."""

import pytest

from bench.report.crossovers import Crossover, ring

pytestmark = pytest.mark.workers(1)

SENT, LATENCY, BANDWIDTH = 940_000, 2e-6, 5e9


def planted(law: str, compute: float, counts=(2, 4)) -> Crossover:
    whole = {n: ring(n, SENT, LATENCY, BANDWIDTH) for n in counts}
    empty = {n: ring(n, 0, LATENCY, BANDWIDTH) for n in counts}
    return Crossover.of(law, "usual", 1024, SENT, compute, whole, empty)


def test_latency_and_bandwidth_are_found_again():
    found = planted("strong", 1.0)
    assert found.latency == pytest.approx(LATENCY)
    assert found.bandwidth == pytest.approx(BANDWIDTH)


@pytest.mark.parametrize("law", ["strong", "weak"])
@pytest.mark.parametrize("compute", [1e-5, 4e-4, 8e-3])
def test_the_formula_names_the_first_number_of_workers_that_waits_longer(law, compute):
    found = planted(law, compute)
    expected = next(
        n
        for n in range(1, 10**5)
        if ring(n, SENT, LATENCY, BANDWIDTH) >= (compute / n if law == "strong" else compute)
    )
    assert found.by_formula == expected


def test_measured_workers_say_it_themselves():
    assert planted("strong", 8e-3).measured is None
    seconds = ring(4, SENT, LATENCY, BANDWIDTH)
    assert planted("strong", 4 * seconds).measured == 4
    assert planted("strong", 1e-6).measured == 2


def test_compute_that_is_never_overtaken_has_no_crossover():
    assert planted("weak", 100.0).by_formula is None
