"""What a machine lacks is said, ranks are as many as cores or GPUs, and wrong weights are seen."""

import re
from pathlib import Path

import pytest

from bench.studies.devices import WAYS, Way, check
from strategies.catalog import Entry, added
from tests.examples.mean_of_means import MeanOfMeans

ROOT = Path(__file__).parents[3]


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("way", "ranks", "cores", "devices", "workers", "reason"),
    [
        ("one core", 4, 1, ["cpu"], 1, ""),
        ("all cores, data-parallel", 4, 2, ["cpu"], 2, ""),
        ("all cores, model-parallel", 4, 1, ["cpu"], 1, "needed: 4 ranks, 1 cores"),
        ("all cores, data-parallel", 1, 2, ["cpu"], 1, "needed: 1 ranks, 2 cores"),
        ("one GPU", 4, 2, ["cpu", "cuda:0", "cuda:1"], 1, ""),
        ("one GPU", 4, 2, ["cpu", "mps"], 1, "torch finds no cuda here, only cpu, mps"),
        ("one Apple GPU", 4, 2, ["cpu", "mps"], 1, ""),
        ("several GPUs, data-parallel", 4, 2, ["cpu", "cuda:0", "cuda:1"], 2, ""),
        ("several GPUs, model-parallel", 4, 8, ["cpu", "cuda:0"], 1, "4 ranks, cpu, cuda:0"),
        ("several GPUs, model-parallel", 4, 8, ["cpu"], 0, "torch finds no cuda here, only cpu"),
    ],
)
def test_a_way_says_what_it_lacks(way, ranks, cores, devices, workers, reason):
    found = WAYS[way].why_not(ranks, cores, devices)
    assert found.endswith(reason)
    assert bool(found) == bool(reason)
    assert WAYS[way].workers(ranks, cores, devices) == workers


@pytest.mark.workers(2)
def test_weights_of_all_ranks_are_checked(comm, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("bench.studies.devices.available", lambda: 2)
    assert not check(Way("cpu", "DataParallel"), "mlp", comm).problem
    with added(Entry("Wrong", MeanOfMeans)):
        assert "the weights differ" in check(Way("cpu", "Wrong"), "mlp", comm).problem


@pytest.mark.workers(1)
def test_the_script_for_gpus_takes_less_than_8_minutes_and_names_files_that_are_there():
    script = (ROOT / ".ci" / "gpu").read_text()
    assert 0 < sum(map(int, re.findall(r"^part (\d+) ", script, re.MULTILINE))) < 8 * 60
    named = re.findall(r"(?:tests|bench)/\S+\.py", script)
    assert "bench/studies/devices.py" in named
    assert all((ROOT / path).is_file() for path in named)
