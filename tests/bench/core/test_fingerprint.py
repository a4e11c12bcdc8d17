"""What must be equal before runs are compared: each entry is there, and counts."""

import pytest

from bench.core import fingerprint as module
from bench.core.fingerprint import differences, fingerprint

pytestmark = pytest.mark.workers(1)


def pool(threads, version="0.3", api="blas"):
    return {
        "user_api": api,
        "internal_api": "openblas",
        "version": version,
        "architecture": "Zen",
        "num_threads": threads,
    }


CHANGES = {
    "cpu": lambda patch: patch.setattr(module, "_cpu", lambda: "Abacus"),
    "architecture": lambda patch: patch.setattr(module.platform, "machine", lambda: "abacus"),
    "cores": lambda patch: patch.setattr(module.os, "cpu_count", lambda: 77),
    "affinity": lambda patch: patch.setattr(module, "allowed", lambda: {5, 77}),
    "memory gib": lambda patch: patch.setattr(
        module.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 77 * 2**30})
    ),
    "mpi": lambda patch: patch.setattr(module, "_mpi", lambda: "Pigeons 1.0"),
    "blas": lambda patch: patch.setattr(
        module.threadpoolctl, "threadpool_info", lambda: [pool(7), pool(1, api="openmp")]
    ),
    "python": lambda patch: patch.setattr(module.platform, "python_version", lambda: "7.7"),
    "numpy": lambda patch: patch.setattr(module.np, "__version__", "7.7"),
    "torch": lambda patch: patch.setattr(module, "_version", lambda package: f"{package} 7.7"),
}


@pytest.mark.parametrize("entry", CHANGES)
def test_each_entry_makes_runs_incomparable(monkeypatch, entry):
    before = fingerprint(2, ["cpu"])
    assert differences(before, fingerprint(2, ["cpu"])) == []
    CHANGES[entry](monkeypatch)
    (said,) = differences(before, fingerprint(2, ["cpu"]))
    assert said.startswith(f"{entry}: ")


def test_ranks_and_devices_make_runs_incomparable(monkeypatch):
    monkeypatch.setattr(module, "_device", lambda device: device)
    before = fingerprint(2, ["cpu"])
    assert differences(before, fingerprint(3, ["cpu"])) == ["world size: 2 before, 3 now"]
    (said,) = differences(before, fingerprint(2, ["cuda", "cpu"]))
    assert said == "devices: ['cpu'] before, ['cpu', 'cuda'] now"
    assert {key.replace("_", " ") for key in before} == {*CHANGES, "world size", "devices"}


@pytest.mark.parametrize(
    ("other", "same"), [(pool(2), False), (pool(1, "0.4"), False), (pool(1), True)]
)
def test_blas_is_its_library_its_version_and_its_threads(monkeypatch, other, same):
    found = []
    for one in (pool(1), other):
        monkeypatch.setattr(module.threadpoolctl, "threadpool_info", lambda one=one: [one])
        found.append(fingerprint(2, ["cpu"]))
    assert (differences(*found) == []) is same


def test_what_one_of_two_does_not_have_makes_them_incomparable():
    said = ["b: 1 before, not recorded now", "c: not recorded before, 2 now"]
    assert differences({"a": 0, "b": 1}, {"a": 0, "c": 2}) == said
