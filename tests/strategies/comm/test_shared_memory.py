"""Where the memory that ranks share is too small, all of them say so, and go on."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nn import SGD, mlp
from strategies import Hogwild, SharedDataParallel
from strategies.base import Refused
from strategies.comm import shared_memory
from tests.faults.launch import ULFM, mpiexec, run

ROOT = Path(__file__).parents[3]
MOUNT = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "sh", "-c"]
SMALL = "mount -t tmpfs -o size=40m tmpfs /dev/shm"


@pytest.mark.workers(1, 2)
@pytest.mark.parametrize("strategy", [SharedDataParallel, Hogwild])
def test_too_little_memory_is_refused_on_all_ranks(comm, strategy, monkeypatch):
    """A rank alone shares nothing, and needs no room."""

    def make():
        return strategy(mlp([100, 100]), SGD(0.1), comm)

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=3, f_frsize=4096))
        if comm.size > 1:
            with pytest.raises(Refused, match=r"MB in /dev/shm.* 0\.0 MB are free.*--shm-size"):
                make()

            def no_pages(folder, memory):
                raise Refused("no pages")

            patch.undo()
            patch.setattr(shared_memory, "_take_pages", no_pages)
            with pytest.raises(Refused, match="no pages"):
                make()
        else:
            make().close()
    make().close()


@pytest.mark.workers(1)
@pytest.mark.skipif(
    subprocess.run([*MOUNT, SMALL], capture_output=True, check=False).returncode != 0,
    reason="this process may not mount a small /dev/shm",
)
def test_a_dev_shm_that_is_small_or_fills_meanwhile(tmp_path):
    """With real memory: MPI says MPI_ERR_INTERN on rank 0 only, and missing pages are a SIGBUS."""
    launcher = shlex.join([mpiexec(), *ULFM, "-n", "2", sys.executable, "-m", "mpi4py", "-m"])
    module = "tests.strategies.comm.little_shared_memory"
    code, output, _ = run(
        [*MOUNT, f"{SMALL} && exec {launcher} {module}"], tmp_path, {"PYTHONPATH": str(ROOT)}
    )
    assert code == 0, output
    assert re.search(r"large: 1: the ranks share 48\.\d MB .*, and \d\d\.\d MB are free", output), (
        output
    )
    assert re.search(r"filled: 1: the ranks share 2\.0 MB .*, and 0\.1 MB are free", output)
    assert "small: 1: made" in output
