"""A pytest plugin: `--model`, `--recipe`, `--strategy` and more have a user's own code tried.

Given any of them, only the files in `TRIALS` run; without, all others do. README.md says what the
files must hold. Everything is loaded and tried once, before any test, and the ranks exchange the
outcome: a mistake ends the run with one sentence.
"""

from pathlib import Path
from typing import Any, NoReturn

import pytest

from bench.user_code import UserCodeError
from bench.user_code.loader import Options, load
from bench.user_code.registry import USER_CODE, loaded

_ROOT = Path(__file__).resolve().parents[2]
TRIALS = (_ROOT / "tests" / "test_user_code.py", _ROOT / "bench" / "test_user_code.py")
"""The files that try user code."""

OWN_LOOP = _ROOT / "tests" / "test_own_loop.py"
"""The file that compares plain training with the user's own loop, if there is one."""


OPTIONS = {
    "model": ("FILE.py:FACTORY", "a function that returns your model, or a recipe"),
    "recipe": ("FILE.py:FACTORY", "a function that returns your nn.Recipe"),
    "strategy": ("FILE.py:CLASS", "your strategy"),
    "optimizer": ("FILE.py:FACTORY", "a function that makes your optimizer"),
    "loss": ("FILE.py:NAME", "the loss that your model is trained on"),
    "reference": ("FILE.py:TRAIN", "your own loop: what plain training has to equal"),
    "data": (
        "WHAT",
        "rows for your model: a name of nn.data, a .npz or .mat file, FILE.py:FUNCTION; "
        "by default random rows of its input shape",
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lockstep: your own code (see bench/user_code/README.md)")
    for name, (argument, about) in OPTIONS.items():
        group.addoption(f"--{name}", metavar=argument, help=about)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Load and try the user code. Collective: unless all ranks succeed, all of them end."""
    options = Options(**{name: config.getoption(f"--{name}") for name in OPTIONS})
    if not options:
        return
    ranks: Any = config.pluginmanager.get_plugin("ranks")
    for name, (expected, _) in OPTIONS.items():
        if config.getoption(f"--{name}") == "":  # as of a shell's variable that is not set
            _end(ranks, f"--{name} is empty: expected {expected}")
    problem = ""
    try:
        with ranks.watchdog.phase(ranks.deadline):
            devices = config.getoption("--device") or ()
            config.stash[USER_CODE] = load(options, devices)
    except UserCodeError as error:
        problem = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as stopped:  # by the watchdog
        problem = f"loading your files: {stopped}"
    answers = ranks.meeting.exchange("user code", {"problem": problem}, ranks.deadline)
    problems = {rank: answer["problem"] for rank, answer in answers.items() if answer["problem"]}
    for rank, text in ranks.meeting.dead.items():
        problems[rank] = f"loading your files: {text or 'it died'}"
    if problems:
        rank, problem = min(problems.items())
        some = "" if len(problems) == ranks.control.comm.size else f" (rank {rank}, not all)"
        _end(ranks, problem + some)


def _end(ranks: Any, message: str) -> NoReturn:
    """End the run with one message, not one from every rank, and the exit code of wrong usage."""
    ranks.code = int(pytest.ExitCode.USAGE_ERROR)
    leads = ranks.control.rank == ranks.control.leader
    if leads and not ranks.control.can_finalize:
        # Ranks have died, so pytest will not get to print it.
        ranks.watchdog.print_now(f"ERROR: {message}")
    raise pytest.UsageError(*([message] if leads else []))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With user code, collect only the files that try it; without, collect all others."""
    if not collection_path.is_file() or collection_path.name == "conftest.py":
        return None
    user_code, path = loaded(config), collection_path.resolve()
    if path == OWN_LOOP:
        return True if not user_code.reference else None
    return True if (path in TRIALS) != bool(user_code) else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if every trial was skipped: nothing is known about the user code then."""
    if session.exitstatus == pytest.ExitCode.OK and _all_skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if notes := loaded(terminalreporter.config).notes:
        terminalreporter.section("what these trials cannot decide")
        for note in notes:
            terminalreporter.write_line(note)
    for file in _all_skipped(terminalreporter.config):
        message = f"ERROR: {file}: every trial was skipped, so nothing is known about your code"
        terminalreporter.write_line(message, red=True)


def _all_skipped(config: pytest.Config) -> list[str]:
    """List the files whose trials of user code were all skipped."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if not loaded(config) or terminal is None:
        return []
    files = {
        outcome: {report.nodeid.split("::")[0] for report in terminal.stats.get(outcome, ())}
        for outcome in ("passed", "failed", "error", "skipped")
    }
    return sorted(files.pop("skipped").difference(*files.values()))
