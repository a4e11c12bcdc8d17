import pytest

from bench.gate import collect, launches
from tests.bench.gate.simulated_grid import simulated_start, write_grid


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty working directory with a grid of six cells, whose launches start no process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collect, "start", simulated_start)
    # Other programs may run beside this test; their effect on a cell is tested by itself.
    monkeypatch.setattr(launches, "disturbed", lambda load, workers: False)
    # A launch of these tests with more ranks than cores has it, and the gate's program has not.
    monkeypatch.delenv("OMPI_MCA_mpi_yield_when_idle", raising=False)
    write_grid(tmp_path)
    return tmp_path
