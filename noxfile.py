"""What people type. All sessions share one pip environment of exact versions, made by the first.

nox -s correctness             # proof, on 4 ranks; -- -n N changes the number
nox -s bench_mpi -- -n 4       # measurement; --quick for a first look

A session that needs optional packages adds them to that environment. What another session needs
them for is skipped with the reason until then.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))

from bench.gate.named_paths import named_paths

nox.needs_version = ">=2025.11"
nox.options.default_venv_backend = "venv"  # pip: uv would not find a local torch wheel
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "correctness", "optional", "mutants", "faults", "pages"]

PROJECT = nox.project.load_toml("pyproject.toml")
CODE = ["nn", "strategies", "bench", "tests", "conftest.py", "noxfile.py"]
BIN = Path(".nox", "environment", "bin").absolute()
PYTHON = str(BIN / "python")

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
    # Ranks would say at every shared window that Open MPI has not tested it with fault tolerance.
    # What mpiexec itself has to say still comes.
    "PMIX_MCA_plog": "^stdfd",
}

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**31)}
"""glibc keeps what is freed, for the next step to take: new pages have to be zeroed first.

For proofs, which nobody times; measurements run as their users' programs do.
"""

shared = nox.session(venv_backend="none", requires=["environment"])
"""A session that runs in the shared environment."""


@nox.session(default=False)
def environment(session: nox.Session) -> None:
    """Install what the proof and the measurement need, in exact versions, and MPI.

    LOCKSTEP_SYSTEM_MPI=1 leaves out the PyPI wheel; mpi4py then finds the system's library.
    """
    groups = ["test"] if os.environ.get("LOCKSTEP_SYSTEM_MPI") else ["test", "mpi"]
    wanted = nox.project.dependency_groups(PROJECT, *groups)
    session.install("-c", "constraints.txt", *PROJECT["project"]["dependencies"], *wanted)


def add(session: nox.Session, group: str) -> None:
    """Add an optional dependency group of pyproject.toml to the shared environment."""
    wanted = nox.project.dependency_groups(PROJECT, group)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "-c", "constraints.txt"]
    session.run_install(*pip, *wanted, external=True)  # `nox -R` leaves it out


def launcher() -> list[str]:
    """The command that starts ranks: the wheel's mpiexec, else the system's.

    Open MPI tells survivors of a rank's death only where it is asked to. MPICH's Hydra kills them
    before they can say where they are, unless it is asked not to.
    """
    path = shutil.which("mpiexec", path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
    if path is None:
        raise SystemExit("no mpiexec: install an MPI, or unset LOCKSTEP_SYSTEM_MPI for the wheel")
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    asked = {"Open MPI": ["--with-ft", "ulfm"], "HYDRA": ["-disable-auto-cleanup"]}
    return [path, *(option for name in asked if name in version for option in asked[name])]


def python(session: nox.Session, *command: str, ends: float = 0.3, **env: str) -> None:
    """Run a module in one process; launches that it starts find all they need set.

    LOCKSTEP_MPIEXEC names another launcher for them. After Ctrl-C it has `ends` seconds to end.
    """
    mpiexec = os.environ.get("LOCKSTEP_MPIEXEC") or shlex.join(launcher())
    own = {"LOCKSTEP_MPIEXEC": mpiexec, "LOCKSTEP_SESSION": session.name}
    session.run(
        *(PYTHON, "-m", *command),
        external=True,
        env=THREADS | OPEN_MPI | own | env,
        interrupt_timeout=ends,
    )


def judged(session: nox.Session, *command: str) -> None:
    """Run a module whose exit code says more than "failed", which is all that nox would say."""
    try:
        python(session, *command)
    except nox.command.CommandFailed as failed:
        raise SystemExit(getattr(failed, "return_code", None) or 1) from None


def mpiexec(session: nox.Session, ranks: int, *command: str, **env: str) -> None:
    """Run a module on `ranks` ranks."""
    # A rank that spins on a core that another rank needs slows both.
    crowded = {"OMPI_MCA_mpi_yield_when_idle": "1"} if ranks > len(os.sched_getaffinity(0)) else {}
    own = {"LOCKSTEP_RANKS": str(ranks), "LOCKSTEP_SESSION": session.name}
    session.run(
        *(*launcher(), "-n", str(ranks), PYTHON, "-m", *command),
        external=True,
        env=THREADS | OPEN_MPI | crowded | _columns() | own | env,
    )


def _columns() -> dict[str, str]:
    """Width of the terminal, which ranks cannot see behind their launcher."""
    return {"COLUMNS": str(shutil.get_terminal_size((120, 0)).columns)}


def options(session: nox.Session, ranks: int) -> tuple[argparse.Namespace, list[str]]:
    """The arguments that a session knows, and those that go on to pytest."""
    parser = argparse.ArgumentParser(f"nox -s {session.name} --", add_help=False)
    parser.add_argument("-n", dest="ranks", type=int, default=ranks)
    known, rest = parser.parse_known_args(session.posargs)
    if known.ranks < 1:
        session.error(f"-n {known.ranks}: expected at least 1 rank")
    return known, rest


@shared
def lint(session: nox.Session) -> None:
    """Format, style, types, and that imports go down only."""
    add(session, "lint")
    session.run(BIN / "ruff", "format", "--check", *CODE, external=True)
    session.run(BIN / "ruff", "check", *CODE, external=True)
    session.run(BIN / "mypy", *CODE, external=True)
    session.run(BIN / "lint-imports", external=True)


@shared
def correctness(session: nox.Session) -> None:
    """Does the parallel version learn the same weights? On 4 ranks, or as many as -n says."""
    known, rest = options(session, ranks=4)
    # These start launches of their own, from one process, and have sessions of their own.
    ours = [f"--ignore=tests/{folder}" for folder in ("mutants", "faults", "pages")]
    tests = [] if named_paths(rest) else ["tests"]
    mpiexec(session, known.ranks, "pytest", "--share", *ours, *tests, *rest, **KEEP_MEMORY)


@shared
def optional(session: nox.Session) -> None:
    """Run the tests that `correctness` skips where an optional package is missing."""
    add(session, "optional")
    known, rest = options(session, ranks=2)
    mpiexec(session, known.ranks, "pytest", "-m", "optional", "tests", *rest)


@shared
def pages(session: nox.Session) -> None:
    """Does every command on every page work? Each is run, long ones in a short form."""
    add(session, "optional")
    add(session, "faults")
    # The nox that runs this session, which need not be on the path.
    python(
        session, "pytest", "tests/pages", *session.posargs, NOX=str(Path(sys.argv[0]).absolute())
    )


@shared
def mutants(session: nox.Session) -> None:
    """Do the tests catch real bugs? Each bug of tests/mutants must fail the test named for it."""
    python(session, "pytest", "tests/mutants", *session.posargs)


@nox.session(requires=["environment"])
def faults(session: nox.Session) -> None:
    """Does a failing, hanging or dying rank end in a failed test, and never in a hang?"""
    add(session, "faults")
    # The session's own environment has MPICH, to try an MPI without fault tolerance.
    tests = ["psutil", "pytest", "pytest-benchmark", "hypothesis"]
    needed = PROJECT["project"]["dependencies"]  # of the plugins that the root conftest.py loads
    session.install("-c", "constraints.txt", "mpich", *needed, *tests)
    # Launches spend most of their time in waiting, so two can run side by side.
    side_by_side = ["-n", "2", "--dist", "loadfile"]
    command = ["pytest", "--deadline=120", *side_by_side, *(session.posargs or ["tests/faults"])]
    python(session, *command, MPICH_PYTHON=str(Path(session.bin, "python").absolute()))


OF_STUDIES = {"gpt2": ("weights", "text"), "languages": ("languages",)}
"""The optional groups of studies that need one."""


def of_studies(names: Iterable[str]) -> list[str]:
    """The optional groups that these studies need, each once."""
    return list(dict.fromkeys(group for name in names for group in OF_STUDIES.get(name, ())))


@shared
def bench_mpi(session: nox.Session) -> None:
    """Does it pay here? -n N ranks, --quick for a small grid, --save NAME for a baseline."""
    known, rest = options(session, ranks=len(os.sched_getaffinity(0)))
    if any(argument.startswith(("--save", "--launches")) for argument in rest):
        judged(session, "bench.gate.baselines", "-n", str(known.ranks), *rest)
        return
    named = [Path(path) for path in named_paths(rest)]
    if any("studies" in path.parts for path in named):
        add(session, "fonts")  # studies draw
    for group in of_studies(path.stem for path in named):
        add(session, group)
    mpiexec(session, known.ranks, "pytest", *([] if named_paths(rest) else ["bench"]), *rest)


@shared
def promises(session: nox.Session) -> None:
    """Are steps as fast, and memory as small, as promised? On 2 ranks of a quiet machine."""
    known, rest = options(session, ranks=2)
    tests = [] if named_paths(rest) else ["bench"]
    mpiexec(session, known.ranks, "pytest", "--promises", *tests, *rest)


@shared
def bench_which(session: nox.Session) -> None:
    """Which strategy is fastest for which net? On 2 ranks, or as many as -n says."""
    known, rest = options(session, ranks=2)
    mpiexec(session, known.ranks, "bench.studies.which_strategy", *rest)


@shared
def bench_results(session: nox.Session) -> None:
    """Measure again what bench/RESULTS.md shows: all of it, or the parts that are named."""
    for group in ("fonts", *of_studies(session.posargs or OF_STUDIES)):
        add(session, group)
    python(session, "bench.report.results", *session.posargs)


@shared
def bench_predict(session: nox.Session) -> None:
    """What would more workers bring? A model. RUN.jsonl ... [--machine FILE] [--workers 1024]"""
    judged(session, "bench.cost_model", *session.posargs)


@shared
def report(session: nox.Session) -> None:
    """Draw the records on disk as one page. [RUN.jsonl ...] [-o FOLDER] [--picture FIGURE FILE]"""
    add(session, "report")
    judged(session, "bench.page", *session.posargs)


@shared
def demo(session: nox.Session) -> None:
    """Watch sequential and parallel training race, and have what you write read."""
    add(session, "demo")
    add(session, "fonts")  # printed letters
    python(session, "bench.demo", *session.posargs, ends=15)


@shared
def bench_compare(session: nox.Session) -> None:
    """Have speedups fallen since baseline NAME? [--tolerance 5%] [-n N] [--json F] ..."""
    judged(session, "bench.gate.compare", *session.posargs)


@shared
def bench_ab(session: nox.Session) -> None:
    """Have speedups fallen since GIT_REF? Both are launched in turn, here and now."""
    judged(session, "bench.gate.ab", *session.posargs)


@shared
def bench_history(session: nox.Session) -> None:
    """When did speedups change, over all saved baselines? [-k TEXT] [--since 7] [--json F] ..."""
    judged(session, "bench.gate.history", *session.posargs)


@shared
def bench_aa(session: nox.Session) -> None:
    """How often is the gate wrong? The same code against itself, and against slowed copies."""
    judged(session, "bench.gate.aa", *session.posargs)
