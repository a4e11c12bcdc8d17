"""Every example and every command on every page works, and every link leads somewhere."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages.pages import PAGES, ROOT, blocks, commands, short_form

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(400)]

PYTHON_PAGES = [page for page in PAGES if any(blocks(page, "python"))]
CONSOLE_BLOCKS = [block for page in PAGES for block in blocks(page, "console")]

TRIED = set[str]()
"""Lines that have worked in this run: a command that stands on several pages is tried once."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run(command: list[str], cwd: Path, **environment: str) -> str:
    """The output of a command, which has to end well."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the files of the working tree, in which commands may write."""
    tree = tmp_path_factory.mktemp("pages") / "lockstep"
    run(["git", "clone", "--quiet", str(ROOT), str(tree)], ROOT)
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for file in run(listed, ROOT).split("\0"):
        if file and (ROOT / file).is_file():
            target = tree / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / file).read_bytes())
    (tree / ".nox").symlink_to(ROOT / ".nox")
    tools = tree / ".tools"
    tools.mkdir()
    (tools / "nox").symlink_to(os.environ["NOX"])
    # The grid of the fake launcher, in the commit too, where bench_ab looks for it.
    cells = {f"fake/{name}": {"parallel": 1.5} for name in "abc"}
    (tree / "grid.json").write_text(json.dumps(cells), encoding="utf-8")
    run(["git", "add", "--force", "grid.json"], tree)
    author = ["-c", "user.name=pages", "-c", "user.email=pages@localhost"]
    run(["git", *author, "commit", "--quiet", "-m", "The grid of the fake launcher"], tree)
    example = (ROOT / "tests" / "examples" / "train.py").read_text(encoding="utf-8")
    (tree / "train.py").write_text(example, encoding="utf-8")
    return tree


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name)
def test_the_python_examples_of_a_page_run_one_after_the_other(page, tmp_path):
    program = "\n".join(block.text for block in blocks(page, "python"))
    run([sys.executable, "-W", "error", "-c", program], tmp_path, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("block", CONSOLE_BLOCKS, ids=str)
def test_the_commands_of_a_block_work(block, tree):
    short = [short_form(command) for command in commands(block)]
    fresh = [line for line in short if line not in TRIED or line.startswith("export ")]
    script = "\n".join(["set -e", *fresh])
    path = [str(tree / ".tools"), str(Path(sys.executable).parent), os.environ["PATH"]]
    fake = shlex.join([sys.executable, str(tree / "tests" / "bench" / "gate" / "fake_mpiexec.py")])
    own = {"PATH": os.pathsep.join(path), "PYTHONPATH": str(tree), "FAKE_MPIEXEC": fake}
    run(["bash", "-c", script], tree, **own)
    TRIED.update(fresh)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(
    ("page", "file"),
    [("README.md", "train.py"), ("bench/user_code/README.md", "transformer.py")],
)
def test_the_example_of_a_page_is_the_file_that_is_proven(page, file):
    shown = [block.text for block in blocks(ROOT / page, "python")]
    assert (ROOT / "tests" / "examples" / file).read_text(encoding="utf-8") in shown


def test_a_command_that_no_pattern_matches_is_an_error():
    with pytest.raises(LookupError, match="rm -rf"):
        short_form("rm -rf /")
