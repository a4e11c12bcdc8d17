"""The example workflow: its commands exist, and its script passes the gate's exit code on."""

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from bench.gate.verdicts import Exit

pytestmark = pytest.mark.workers(1)

ROOT = Path(__file__).parents[3]
WORKFLOW = (ROOT / ".github" / "workflows" / "speedup.yml").read_text(encoding="utf-8")
(SCRIPT,) = map(textwrap.dedent, re.findall(r"run: \|\n((?: {10}.*\n)+)", WORKFLOW))

NOX = """#!/bin/sh
printf '%s\\n' "$@" > called
exit "$CODE"
"""


def test_every_session_exists():
    """Look for it in the noxfile, since nox itself is not installed in every environment."""
    sessions = re.findall(r"nox -s (\w+)", WORKFLOW)
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert sorted(sessions) == ["bench_ab", "correctness"]
    assert all(f"\ndef {session}(session" in noxfile for session in sessions)


@pytest.fixture
def step(tmp_path, monkeypatch):
    """Run the gate's step as a CI runner does, with a nox that does nothing but exit."""
    nox = tmp_path / "nox"
    nox.write_text(NOX)
    nox.chmod(0o755)
    (tmp_path / "step.sh").write_text(SCRIPT)

    def step(code):
        own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code)}
        command = ["bash", "-e", "step.sh"]
        environment = os.environ | own | {"GITHUB_STEP_SUMMARY": "the summary.md"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done, (tmp_path / "called").read_text().splitlines()

    return step


@pytest.mark.parametrize("code", Exit)
def test_only_a_run_that_cannot_tell_is_excused(step, code):
    done, _ = step(code)
    inconclusive = code is Exit.INCONCLUSIVE
    assert done.returncode == (0 if inconclusive else code)
    assert ("::warning" in done.stdout) is inconclusive


def test_the_summary_goes_where_the_page_takes_it_from(step):
    _, called = step(0)
    assert called[:3] == ["-s", "bench_ab", "--"]
    assert called[called.index("--markdown") + 1] == "the summary.md"
