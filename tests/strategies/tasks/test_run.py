"""Tasks give the same outcomes however they are executed, and each stands for itself."""

import re
import sys
from functools import partial

import numpy as np
import pytest

from strategies.tasks import Workers, current, run_tasks
from strategies.tasks import global_seeds as global_seeds_module
from tests.strategies.tasks.functions import Odd, draw, draws, misbehaves, shuffled, values

pytestmark = pytest.mark.workers(1)

run = partial(run_tasks, progress=False)


def in_order_of_ending(tasks, executor, function=draw, **more):
    """The outcomes, and the numbers of the tasks in the order in which they ended."""
    ended = []

    def then(outcome):
        ended.append(outcome.task["number"])
        return ()

    return run(function, tasks, executor, then=then, **more), ended


@pytest.fixture(scope="module")
def serial():
    return values(run(draw, shuffled(12)))


@pytest.mark.filterwarnings("ignore:4 workers share")
@pytest.mark.parametrize("count", [1, 2, 4])
def test_own_workers_equal_serial_to_the_bit(serial, count):
    outcomes, ended = in_order_of_ending(shuffled(12), count)
    assert values(outcomes) == serial
    assert (ended == sorted(ended)) == (count == 1)  # else the order of outcomes is not tested
    assert sorted(ended) == list(range(12))


def test_outcomes_are_in_the_order_of_the_tasks(pair):
    tasks = draws(6)
    outcomes = run(draw, tasks, pair, costs=[1, 2, 3, 4, 5, 6])
    assert [each.task for each in outcomes] == tasks


@pytest.mark.parametrize("given", [True, False])
def test_the_longest_begin_first(given):
    costs = [2, 5, 0.5, 5, 3]
    _, ended = in_order_of_ending(draws(5), None, costs=costs if given else None)
    assert ended == ([1, 3, 4, 0, 2] if given else [0, 1, 2, 3, 4])


def test_tasks_have_seeds_of_their_own(serial):
    outcomes = run(draw, draws(5))
    for drawn in ("own", "shared", "seed"):
        assert len({str(each.value[drawn]) for each in outcomes}) == 5
    again = run(draw, draws(5)[::-1], costs=[3, 1, 2, 5, 4])[::-1]
    assert values(again) == values(outcomes)
    other = run(draw, draws(5), seed=1)
    assert not any(np.array_equal(a.value["own"], b.value["own"]) for a, b in zip(outcomes, other))


def test_seeds_spawn_and_a_task_has_one_stream():
    def function(task):
        here = current()
        one, other = here.seeds.spawn(2)
        assert here.rng.random() != current().rng.random()
        return [one.generate_state(1)[0], other.generate_state(1)[0], here.seed]

    (outcome,) = run(function, [0])
    assert len(set(outcome.value)) == 3


def test_shared_generators_of_the_program_stay_as_they_were():
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    run(draw, draws(2))
    assert np.random.rand() == expected  # noqa: NPY002


def test_shared_generator_of_torch_is_seeded_and_put_back():
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two, again = run(lambda task: torch.rand(2).tolist(), [1, 2, 1.0])
    assert one.value != two.value
    assert again.value != one.value  # 1 and 1.0 are two tasks, as JSON writes them
    assert torch.rand(1) == expected
    assert run(lambda task: torch.rand(2).tolist(), [2])[0].value == two.value


def test_torch_is_seeded_when_a_task_is_the_first_to_import_it():
    pytest.importorskip("torch")

    def draws_from_torch(task):
        had_torch = "torch" in sys.modules
        import torch

        return had_torch, torch.rand(2).tolist()

    expected = [each.value[1] for each in run(draws_from_torch, [1, 2])]
    for task in (1, 2):  # in a new process each
        (outcome,) = run(draws_from_torch, [task], 1)
        assert outcome.value == (False, expected[task - 1])


def test_a_module_that_a_task_imports_is_told_of_and_finders_are_put_back(monkeypatch):
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    before, told = list(sys.meta_path), []
    with global_seeds_module._at_import("wave", told.append):
        import wave

        assert told == [wave]
        monkeypatch.delitem(sys.modules, "wave")
    assert sys.meta_path == before


@pytest.mark.parametrize("executor", [None, "pair"])
def test_a_task_that_raises_is_an_outcome_and_the_others_go_on(request, executor):
    executor = request.getfixturevalue("pair") if executor else None
    tasks = [
        {"number": 0},
        {"number": 1, "do": "raise"},
        {"number": 2, "do": "exit"},
        {"number": 3},
    ]
    outcomes = run(misbehaves, tasks, executor)
    assert [each.task for each in outcomes] == tasks
    assert [each.error is None for each in outcomes] == [True, False, False, True]
    assert "in misbehaves" in outcomes[1].error  # a traceback
    assert "ValueError: no 1" in outcomes[1].error
    assert "SystemExit: 3" in outcomes[2].error
    assert [each.value for each in outcomes[1:3]] == [None, None]
    assert [each.attempts for each in outcomes] == [1] * 4


@pytest.mark.parametrize("executor", [None, "pair"])
def test_a_value_of_any_kind_comes_back_without_a_journal(request, executor):
    executor = request.getfixturevalue("pair") if executor else None
    tasks = [{"number": 0, "do": "return", "what": "object"}]
    assert run(misbehaves, tasks, executor)[0].value == Odd()


def test_lambdas_and_closures_run_in_workers(pair):
    factor = 3
    outcomes = run(lambda task: factor * task, [1, 2], pair)
    assert [each.value for each in outcomes] == [3, 6]


def test_large_arrays_are_mapped_and_not_copied(pair):
    rows = np.arange(300_000.0).reshape(1000, 300)

    def looks(task):
        base = rows
        while getattr(base, "base", None) is not None:
            base = base.base
        return type(base).__name__, rows.flags.writeable, rows[task].sum()

    outcomes = run(looks, [0, 999], pair)
    assert [each.value[:2] for each in outcomes] == [("mmap", False)] * 2
    assert [each.value[2] for each in outcomes] == [rows[0].sum(), rows[999].sum()]
    rows[0] = 1  # a later run sees it
    assert run(looks, [0], pair)[0].value[2] == 300


class Viewed:
    """Something large that makes another array of itself whenever it is pickled."""

    def __init__(self):
        self.rows = np.arange(300_000.0)

    def __getstate__(self):
        return {"rows": self.rows[:]}


def test_a_function_is_pickled_once_for_all_its_tasks():
    viewed = Viewed()
    with Workers(1) as workers:
        files = run(lambda task: viewed.rows[task], list(range(5)), workers)
        assert [each.value for each in files] == [0, 1, 2, 3, 4]
        assert len(list(workers._arrays.folder.iterdir())) == 1
        viewed.rows[0] = 7
        assert run(lambda task: viewed.rows[task], [0], workers)[0].value == 7
        assert len(list(workers._arrays.folder.iterdir())) == 1


def test_a_task_finds_the_function_as_it_was_given_whatever_ran_before():
    notes = []

    def noting(task):
        notes.append(task)
        return len(notes)

    assert [each.value for each in run(noting, [5, 6], 1)] == [1, 1]


def test_then_adds_tasks_and_hears_of_every_outcome():
    heard = []

    def then(outcome):
        heard.append(outcome.task["number"])
        return draws(1, after=outcome.task["number"]) if "after" not in outcome.task else ()

    outcomes = run(draw, draws(3), then=then)
    assert [each.task for each in outcomes[3:]] == [{"number": 0, "after": i} for i in range(3)]
    assert heard == [0, 1, 2, 0, 0, 0]


def test_seconds_are_of_the_task(pair):
    (outcome,) = run(draw, draws(1, sleeps=0.2), pair)
    assert 0.2 <= outcome.seconds < 1


def test_current_is_refused_outside_a_task():
    with pytest.raises(RuntimeError, match="no task is running here"):
        current()


def test_current_says_what_the_task_may_know():
    def function(task):
        here = current()
        assert here.checkpoint.parent.is_dir()
        assert here.comm.size == 1
        return here.attempt, here.threads, len(here.key), here.checkpoint.name

    one, other = run(function, [1, 2])
    assert one.value[:3] == (1, 1, 32)
    assert one.value[3] != other.value[3]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"function": 3}, TypeError, "expected a function of one task"),
        ({"tasks": [1, 2, 1]}, ValueError, "task 2 equals task 0, 1: expected tasks that differ"),
        ({"tasks": [{"x": 1, "y": 2}, {"y": 2, "x": 1}]}, ValueError, "task 1 equals task 0"),
        ({"tasks": [{1: 2}]}, TypeError, "task {1: 2}: expected None, numbers"),
        ({"tasks": [object()]}, TypeError, "expected None, numbers, text"),
        ({"executor": 0}, ValueError, "executor=0: expected None, a number of workers"),
        ({"executor": True}, TypeError, "executor=True: expected None"),
        ({"executor": "threads"}, TypeError, "executor='threads': expected None"),
        ({"executor": 1.5}, TypeError, "executor=1.5"),
        ({"costs": [1]}, ValueError, "1 costs of 2 tasks: expected one for each"),
        ({"costs": [1, -1]}, ValueError, r"costs\[1\]=-1"),
        ({"costs": [1, None]}, TypeError, r"costs\[1\]=None: expected a number"),
        ({"retries": -1}, ValueError, "retries=-1: expected 0 or more"),
        ({"threads": 0}, ValueError, "threads=0: expected 1 or more"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"limit": 0}, ValueError, "limit=0: expected more than 0"),
        ({"limit": "1 s"}, TypeError, "limit='1 s': expected a number"),
        ({"ranks_per_task": 2}, ValueError, 'ranks_per_task=2: expected executor="mpi"'),
        ({"then": lambda outcome: [1]}, ValueError, r"a task of then\(1\) equals task 0"),
    ],
)
def test_what_is_not_meant_is_refused(arguments, error, says):
    given = {"function": lambda task: task, "tasks": [1, 2], "progress": False} | arguments
    with pytest.raises(error, match=says):
        run_tasks(**given)


def test_a_client_of_dask_is_told_of_its_executor():
    class Client:
        def submit(self): ...

    with pytest.raises(TypeError, match=re.escape("client.get_executor()")):
        run(draw, draws(1), Client())
