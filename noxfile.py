"""What people type. Sessions build their own pip environments from exact versions and reuse them.

nox -s correctness             # proof, on 4 ranks; -- -n N changes the number
nox -s bench_mpi -- -n 4       # measurement; --quick for a first look
"""

import argparse
import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "venv"  # pip: uv would not find a local torch wheel
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "correctness", "mutants", "faults"]

PROJECT = nox.project.load_toml("pyproject.toml")
CODE = ["nn", "strategies", "bench", "tests", "conftest.py", "noxfile.py"]

THREADS = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
}
"""One BLAS/OMP thread per rank: ranks must not compete for cores with each other's threads."""

OPEN_MPI = {
    # Containers run as root, and correctness runs may have more ranks than cores.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    # The UCX one-sided component warns at every shared window on machines without its network.
    "OMPI_MCA_osc": "^ucx",
}


def install(session: nox.Session, group: str) -> None:
    """Install a dependency group with exact versions, and MPI unless the user has one.

    LOCKSTEP_SYSTEM_MPI=1 leaves out the PyPI wheel; mpi4py then finds the system's library.
    """
    groups = [group] if os.environ.get("LOCKSTEP_SYSTEM_MPI") else [group, "mpi"]
    wanted = [*PROJECT["project"]["dependencies"], *nox.project.dependency_groups(PROJECT, *groups)]
    session.install("--constraint", "constraints.txt", *wanted)


def mpiexec(session: nox.Session, ranks: int, *command: str, **env: str) -> None:
    """Run a Python command on `ranks` ranks, with everything that such a run needs set."""
    launcher = Path(session.bin, "mpiexec")
    path = str(launcher) if launcher.exists() else shutil.which("mpiexec")
    if path is None:
        session.error("no mpiexec: install an MPI, or unset LOCKSTEP_SYSTEM_MPI to use the wheel")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # A rank that spins on a core that another rank needs slows both.
    crowded = {"OMPI_MCA_mpi_yield_when_idle": "1"} if ranks > (cores or 1) else {}
    session.run(
        path,
        *fault_tolerance(path),
        *("-n", str(ranks), "python", "-m", *command),
        external=True,
        env={**THREADS, **OPEN_MPI, **crowded, "LOCKSTEP_RANKS": str(ranks), **env},
    )


def fault_tolerance(launcher: str) -> list[str]:
    """What makes this launcher tell the survivors of a rank's death; nothing where it cannot."""
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True).stdout
    return ["--with-ft", "ulfm"] if "Open MPI" in version else []


def ranks_and_rest(session: nox.Session, default: int) -> tuple[int, list[str]]:
    """Split `-n N` from the arguments that go on to pytest."""
    parser = argparse.ArgumentParser(prog=f"nox -s {session.name} --", add_help=False)
    parser.add_argument("-n", dest="ranks", type=int, default=default)
    known, rest = parser.parse_known_args(session.posargs)
    if known.ranks < 1:
        session.error(f"-n {known.ranks}: expected at least 1 rank")
    return known.ranks, rest


@nox.session
def lint(session: nox.Session) -> None:
    """Format, style, types, and that imports go down only."""
    install(session, "lint")
    session.run("ruff", "format", "--check", *CODE)
    session.run("ruff", "check", *CODE)
    session.run("mypy", *CODE)
    session.run("lint-imports")


@nox.session
def correctness(session: nox.Session) -> None:
    """Does the parallel version learn the same weights? On 4 ranks, or as many as -n says."""
    install(session, "test")
    ranks, rest = ranks_and_rest(session, default=4)
    mpiexec(session, ranks, "pytest", *(rest or ["tests"]))


@nox.session
def mutants(session: nox.Session) -> None:
    """Do the tests catch real bugs? Each patch of tests/mutants must make its test fail."""
    install(session, "test")
    session.run("python", "-m", "pytest", "tests/mutants", *session.posargs, env=THREADS | OPEN_MPI)


@nox.session
def faults(session: nox.Session) -> None:
    """Does a failing, hanging or dying rank end in a failed test, and never in a hang?"""
    install(session, "test")
    session.run("python", "-m", "pytest", "tests/faults", *session.posargs, env=THREADS | OPEN_MPI)


@nox.session
def bench_mpi(session: nox.Session) -> None:
    """Does it pay here? -n N ranks (default: the cores), --quick for a small grid."""
    install(session, "bench")
    ranks, rest = ranks_and_rest(session, default=os.cpu_count() or 1)
    mpiexec(session, ranks, "pytest", "bench", *rest)
