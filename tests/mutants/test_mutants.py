"""Proof of the proof: every mutant, a real bug, must make the test that is named for it fail.

A mutant is a TOML file beside this one: `file`, a text to `find` in it (exactly once) and what to
`replace` it with; the `bug` in a sentence; the `tests` that must fail, on how many `ranks`. It is
applied to a copy of the tree, so that the tree itself is never touched. As many are tried at once
as there are cores.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.report.proofs import Mutant
from tests.mutants.forked import run_pytest

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(400)]

ROOT = Path(__file__).parents[2]
MUTANTS = {
    path.stem: tomllib.loads(path.read_text())
    for path in sorted(Path(__file__).parent.glob("*.toml"))
}
RANKS = sorted({mutant["ranks"] for mutant in MUTANTS.values()})


NOT_STARTED = "PMIx server's listener thread failed to start"
"""What mpiexec says if it could start nothing, which was seen once in some hundred launches."""

CRASHED = "*** Process received signal ***"
"""What Open MPI says of a process that corrupted its memory; such a process may also hang."""


def copy_tree(target: Path) -> None:
    for folder in ("nn", "strategies", "bench", "tests"):
        shutil.copytree(
            ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / file, target)


def launch(ranks: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest on that many ranks, which leaves no caches behind in the tree."""
    arguments = ("-p", "no:cacheprovider", *arguments)
    environment = os.environ | {"LOCKSTEP_RANKS": str(ranks), "PYTHONDONTWRITEBYTECODE": "1"}
    if ranks == 1:
        return run_pytest(*arguments, cwd=cwd, environment=environment, timeout=300)
    mpiexec = shlex.split(os.environ.get("LOCKSTEP_MPIEXEC", "mpiexec"))
    command = [*mpiexec, "-n", str(ranks), sys.executable, "-m", "pytest", *arguments]
    if ranks > len(os.sched_getaffinity(0)):
        environment["OMPI_MCA_mpi_yield_when_idle"] = "1"
    for _ in range(3):
        run = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if NOT_STARTED not in run.stdout + run.stderr:
            break
    return run


def outcomes(tree: Path, tests: list[str], ranks: int) -> dict[str, str]:
    """Run tests of a tree; test id (without parameters of ranks) -> passed, failed or error."""
    report = tree / "report.xml"
    run = launch(ranks, "-q", "--deadline=20", f"--junitxml={report}", *tests, cwd=tree)
    assert CRASHED not in run.stderr, f"a bug that crashes proves nothing:\n{run.stderr[-3000:]}"
    assert report.exists(), f"no report; pytest said:\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
    found = {}
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = {"failure": "failed"}.get(kind := "".join(kinds), kind or "passed")
    return found


def named_tests(session: pytest.Session, ranks: int) -> list[str]:
    """The tests that are named by those mutants that this session tries on so many ranks."""
    params = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
    mutants = [MUTANTS[each["name"]] for each in params if each.get("name") in MUTANTS]
    return sorted({test for m in mutants if m["ranks"] == ranks for test in m["tests"]})


def without_a_mutant(tree: Path, tests: list[str], ranks: int) -> dict[str, str]:
    """Run tests of a copy of the tree as it is."""
    copy_tree(tree)
    return outcomes(tree, tests, ranks)


def with_the_mutant(tree: Path, name: str) -> dict[str, str]:
    """Run the tests that must fail."""
    mutant = MUTANTS[name]
    copy_tree(tree)
    path = tree / mutant["file"]
    source = path.read_text()
    assert source.count(mutant["find"]) == 1, f"{mutant['file']}: the text to replace has changed"
    path.write_text(source.replace(mutant["find"], mutant["replace"]))
    return outcomes(tree, mutant["tests"], mutant["ranks"])


@pytest.fixture(scope="session")
def tried(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[dict[str, str]]]]:
    """For the id of each test below, what the tests that it launches did."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        launched = {}
        for item in request.session.items:
            if item.path == Path(__file__):
                tree = tmp_path_factory.mktemp("tree")
                params = item.callspec.params  # type: ignore[attr-defined]
                if "name" in params:
                    future = pool.submit(with_the_mutant, tree, params["name"])
                elif tests := named_tests(request.session, params["ranks"]):
                    future = pool.submit(without_a_mutant, tree, tests, params["ranks"])
                else:
                    continue
                launched[item.nodeid] = future
        yield launched
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def found(request: pytest.FixtureRequest, tried: dict[str, Future]) -> dict[str, str]:
    """What the tests did that this test launches."""
    if request.node.nodeid not in tried:
        pytest.skip("no mutant on so many ranks is tried")
    return tried[request.node.nodeid].result()


@pytest.mark.parametrize("ranks", RANKS)
def test_without_a_mutant_the_same_tests_pass(request, found, ranks):
    """Otherwise a test that always fails would count as catching every mutant."""
    passed = [name for name, outcome in found.items() if outcome == "passed"]
    assert {name: o for name, o in found.items() if o in {"failed", "error"}} == {}
    for test in named_tests(request.session, ranks):
        reported_as = test.replace("/", ".").replace(".py::", "::")
        *classes, function = reported_as.split("::")
        reported_as = ".".join(classes) + "::" + function  # as JUnit has it
        assert any(name.startswith(reported_as) for name in passed), f"{test} did not run"


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_caught(found, name, keep):
    mutant = MUTANTS[name]
    caught_by = [test for test, outcome in found.items() if outcome == "failed"]
    keep(Mutant(name, mutant["bug"], mutant["file"], caught_by))
    assert caught_by, f"survived: {mutant['bug']} ({found})"
    assert not [t for t, outcome in found.items() if outcome == "error"], found
    print(f"{name}: {mutant['bug']}\n    caught by {', '.join(caught_by)}")
