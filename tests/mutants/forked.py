"""pytest in a fork of a process that has imported the large packages already.

Importing them takes half of the time of a launch on one rank, which is what most mutants need.
"""

import multiprocessing
import runpy
import subprocess
from pathlib import Path

import psutil

PRELOADED = ["hypothesis", "joblib", "numpy", "psutil", "pytest", "scipy.stats", "sklearn", "torch"]
"""Imported once. None of them starts MPI, which would not survive a fork."""

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(PRELOADED)


def run_pytest(
    *arguments: str, cwd: Path, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run pytest in a process of its own, which takes this project's modules from `cwd`.

    Raises:
        subprocess.TimeoutExpired: it takes longer than so many seconds.
    """
    said = cwd / "said.txt"
    given = {"arguments": list(arguments), "cwd": cwd, "environment": environment, "said": said}
    # By its path: importing it would bind the package `tests` to the tree without a mutant.
    script = Path(__file__).with_name("in_a_fork.py")
    process = _FORKS.Process(target=runpy.run_path, args=(str(script), given))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        fork = psutil.Process(process.pid)
        for part in (*fork.children(recursive=True), fork):
            part.kill()
        process.join()
        raise subprocess.TimeoutExpired(list(arguments), timeout, said.read_text())
    return subprocess.CompletedProcess(list(arguments), process.exitcode, said.read_text(), "")
