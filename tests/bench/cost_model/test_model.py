"""A fit finds the parameters that steps were made with, and refuses what it cannot use."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.cost_model import machine
from bench.cost_model.__main__ import stops_paying
from bench.cost_model.machine import Machine
from bench.cost_model.model import MODELLED, Model, Step, fit, traffic
from bench.cost_model.validation import held_out, summary
from bench.cost_model.waiting import largest, slowdown, spread
from nn.zoo import mlp
from strategies.costs import sent_by_data_parallel

pytestmark = [pytest.mark.workers(1)]

PLANTED = Model(
    Machine(2, 4e-6, 3e-10, 0.0, 1e-10, 0.05), {"a": (2e-4, 8e-6), "b": (1e-3, 2e-5)}, 0.02, 2
)
SIZES = {"a": 940_000, "b": 250_000}


def synthetic(noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    steps = []
    for net, size in SIZES.items():
        for batch in (32, 64, 128, 256, 512, 1024):
            for strategy, workers in [("", 1), *((name, 2) for name in MODELLED)]:
                seconds = PLANTED.seconds(net, size, strategy, workers, batch)
                seconds *= math.exp(noise * rng.standard_normal())
                quantiles = (1.0, math.exp(0.05 * 1.6448536))
                steps.append(Step(net, size, strategy, workers, batch, seconds, False, quantiles))
    return steps


def test_planted_parameters_are_recovered():
    found = fit(synthetic(), cores=2)
    for net, planted in PLANTED.compute.items():
        assert found.compute[net] == pytest.approx(planted, rel=1e-6)
    for name in ("latency", "seconds_per_byte", "memory", "spread"):
        assert getattr(found.machine, name) == pytest.approx(
            getattr(PLANTED.machine, name), rel=1e-4
        )


def test_steps_without_messages_count_as_computing():
    steps = [s for s in synthetic() if s.workers == 1]
    silent = replace(steps[0], strategy="DataParallel", workers=2, silent=True)
    silent = replace(silent, seconds=PLANTED.seconds("a", 1, "", 2, silent.batch_size))
    assert fit([*steps, silent], 2).compute["a"] == pytest.approx(PLANTED.compute["a"], rel=1e-6)


def test_held_out_steps_are_predicted_and_intervals_hold_them():
    exact = held_out(synthetic(), 2)
    assert {h.unseen for h in exact} == {"batch size", "strategy", "net on workers"}
    # Without SharedDataParallel nothing tells of shared memory: that one alone cannot be known.
    known = [h for h in exact if (h.unseen, h.step.strategy) != ("strategy", "SharedDataParallel")]
    assert summary(known)["cells"] >= 60
    assert max(h.error for h in known) < 1e-3
    noisy = summary([h for h in held_out(synthetic(0.03), 2) if h.unseen == "batch size"])
    assert noisy["median"] < 0.05
    assert noisy["coverage"] > 0.8


def test_a_prediction_never_sees_what_it_is_compared_with():
    """What is predicted of a step stays the same, however long that step took."""
    steps = synthetic()
    at = next(i for i, s in enumerate(steps) if s.strategy == "DataParallel")
    longer = [*steps[:at], replace(steps[at], seconds=2 * steps[at].seconds), *steps[at + 1 :]]
    first, second = (
        {h.unseen: h.predicted for h in held_out(all_steps, 2) if h.step is all_steps[at]}
        for all_steps in (steps, longer)
    )
    assert first == second
    assert len(first) == 3


def test_intervals_widen_with_the_distance():
    widths = [
        math.log(p.high / p.low)
        for p in (PLANTED.predict("a", SIZES["a"], "DataParallel", w, 1024) for w in (1, 2, 8, 64))
    ]
    assert widths[0] == pytest.approx(widths[1])
    assert widths[1] < widths[2] < widths[3]


def test_messages_of_data_parallel_are_of_the_bytes_that_are_counted():
    net = mlp([8, 6, 3])
    size = net.offsets[-1] * net.dtype.itemsize
    counted = sent_by_data_parallel(net)["Allreduce"]
    assert counted == size + net.dtype.itemsize  # and the loss, which the model leaves out
    assert traffic("DataParallel", 2, size).sent == size


def test_the_slowest_of_many_is_that_of_a_simulation():
    rng = np.random.default_rng(0)
    for ranks in (1, 2, 16, 256):
        drawn = rng.standard_normal((4000, ranks)).max(axis=1).mean()
        assert largest(ranks) == pytest.approx(drawn, abs=0.05)
    assert slowdown(0.1, 16) == pytest.approx(math.exp(0.1 * largest(16)))
    assert spread([(1.0, math.exp(0.2 * 1.6448536))]) == pytest.approx(0.2)


def test_too_few_or_contradictory_steps_are_refused():
    steps = synthetic()
    with pytest.raises(ValueError, match="expected at least"):
        fit(steps[:3], 2)
    with pytest.raises(ValueError, match="contradict"):
        fit([*steps, replace(steps[0], seconds=10 * steps[0].seconds)], 2)
    with pytest.raises(ValueError, match="sizes of a shard"):
        fit([s for s in steps if s.batch_size == 64], 2)
    with pytest.raises(ValueError, match="more than 0"):
        fit([*steps, replace(steps[0], seconds=0.0)], 2)


def test_a_slower_network_stops_paying_sooner():
    slow = replace(PLANTED, machine=replace(PLANTED.machine, latency=1e-3))
    sooner, later = (
        stops_paying(model, "a", SIZES["a"], "DataParallel", 1024, 1024)
        for model in (slow, PLANTED)
    )
    assert sooner < later


def test_a_machine_file_replaces_what_it_names(tmp_path):
    path = tmp_path / "machine.toml"
    path.write_text("cores = 8\nlatency = 1e-5\n")
    assert machine.load(path, PLANTED.machine) == replace(PLANTED.machine, cores=8, latency=1e-5)
    for text, said in [("speed = 1", "speed"), ("cores = 1.5", "whole"), ("memory = -1", "memory")]:
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            machine.load(path, PLANTED.machine)
