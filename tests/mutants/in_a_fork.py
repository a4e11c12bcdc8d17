# mypy: disable-error-code="name-defined"
# ruff: noqa: F821
"""What a fork does; `forked.run_pytest` gives it the names that it does not define."""

import os
import sys
from pathlib import Path

import pytest

output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(output, 1)
os.dup2(output, 2)
os.environ.clear()
os.environ.update(environment)
os.chdir(cwd)
without_mutant = Path(__file__).parents[2]
sys.path[:] = [str(cwd), *(path for path in sys.path if Path(path).resolve() != without_mutant)]
sys.dont_write_bytecode = True
# pytest would rewrite the assertions of hypothesis, had it not been imported.
quiet = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
sys.exit(pytest.main([*quiet, *arguments]))
