"""Which files run with user code, and which without. What launches say is in tests/mutants."""

from types import SimpleNamespace

import pytest

from bench.user_code.loader import Options
from bench.user_code.plugin import (
    OPTIONS,
    OWN_LOOP,
    TRIALS,
    pytest_configure,
    pytest_ignore_collect,
)
from bench.user_code.reference import Reference
from bench.user_code.registry import USER_CODE, UserCode
from strategies import DataParallel

pytestmark = pytest.mark.workers(1)


def collected(paths, user_code):
    stash = pytest.Stash()
    stash[USER_CODE] = user_code
    config = SimpleNamespace(stash=stash)
    return [path for path in paths if not pytest_ignore_collect(path, config)]


def test_user_code_is_tried_by_two_files_and_not_by_others_of_their_name(tmp_path):
    other = tmp_path / "test_user_code.py"
    other.touch()
    paths = [*TRIALS, other]
    assert collected(paths, UserCode(strategy=DataParallel)) == [*TRIALS]
    assert collected(paths, UserCode()) == [other]


def test_folders_and_conftests_are_read_with_user_code_or_without(tmp_path):
    paths = [tmp_path, tmp_path / "conftest.py"]
    paths[1].touch()
    for user_code in (UserCode(), UserCode(strategy=DataParallel)):
        assert collected(paths, user_code) == paths


def test_plain_training_is_compared_with_a_loop_of_the_users_own_only_if_there_is_one():
    loop = Reference("the loop", lambda batches: None)
    assert collected([OWN_LOOP], UserCode(strategy=DataParallel)) == []
    assert collected([OWN_LOOP], UserCode()) == []
    assert collected([OWN_LOOP], UserCode(strategy=DataParallel, reference=loop)) == [OWN_LOOP]


@pytest.mark.parametrize("name", OPTIONS)
def test_an_empty_option_is_not_taken_for_none(name):
    """As of a variable that is not set: without it, all other tests would run in its place."""
    control = SimpleNamespace(rank=0, leader=0, can_finalize=True)
    ranks = SimpleNamespace(control=control, code=0)
    config = SimpleNamespace(
        getoption=lambda option: "" if option == f"--{name}" else None,
        pluginmanager=SimpleNamespace(get_plugin=lambda plugin: ranks),
    )
    assert Options(**{name: ""})
    with pytest.raises(pytest.UsageError, match=f"--{name} is empty: expected [A-Z]+"):
        pytest_configure(config)
    assert ranks.code == pytest.ExitCode.USAGE_ERROR
