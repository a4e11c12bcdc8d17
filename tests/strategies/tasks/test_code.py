"""A journal knows the code and the data of a function again, in any process."""

import functools
import importlib
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from strategies.launchers import without_launcher
from strategies.tasks.code import code_of, data_of

pytestmark = pytest.mark.workers(1)

SOURCE = '''
import functools
import math
import numpy as np
import helper

RATE = 0.1
NAMES = {"a", "b"}

def inner(x):
    return [x * RATE for _ in range(3)]

class Net:
    """A net."""
    width = 3
    def size(self):
        return self.width + helper.offset(1)
    @property
    def depth(self):
        return 2
    @staticmethod
    def of(n):
        return n in {"x", "y", "z"}

@functools.cache
def cached(x):
    global calls
    calls += 1
    return math.sqrt(x)

calls = 0

def unused(x):
    return 1

def function(task, scale=2):
    """Do it."""
    def local(x):
        return x + 4
    return local(sum(inner(task))) + Net().size() + cached(scale) + np.mean([1])
'''

HELPER = """
def offset(x):
    return x + 10

def other(x):
    return 0
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load the modules above with changes, and return `function`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def loaded(*change, helper=()):
        (tmp_path / "planted.py").write_text(SOURCE.replace(*change) if change else SOURCE)
        (tmp_path / "helper.py").write_text(HELPER.replace(*helper) if helper else HELPER)
        for name in ("planted", "helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("planted").function

    yield loaded
    for name in ("planted", "helper"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("change", "module"),
    [
        (("x + 4", "x + 5"), "planted"),
        (("x * RATE", "x / RATE"), "planted"),
        (("RATE = 0.1", "RATE = 0.2"), "planted"),
        (("range(3)", "range(4)"), "planted"),
        (("self.width + helper", "self.width - helper"), "planted"),
        (("return 2", "return 3"), "planted"),
        (('"z"}', '"w"}'), "planted"),
        (("math.sqrt(x)", "math.cos(x)"), "planted"),
        (("scale=2", "scale=3"), "planted"),
        (("width = 3", "width = 4"), "planted"),
        ((), "helper"),
    ],
)
def test_a_change_of_what_is_reached_is_seen(load, change, module):
    before = code_of(load())
    helper = ("x + 10", "x + 11") if module == "helper" else ()
    after = code_of(load(*change, helper=helper))
    assert {name for name in before if before[name] != after[name]} == {module}
    assert set(before) == {"planted", "helper"}  # nothing that is installed


@pytest.mark.parametrize(
    ("change", "helper"),
    [
        (("return 1\n", "return 7\n"), ()),
        (("import math\n", "import math  # a comment\n\n\n"), ()),
        ((), ("return 0", "return 1")),
    ],
    ids=["unused", "comment", "unused helper"],
)
def test_a_change_of_anything_else_is_not(load, change, helper):
    assert code_of(load()) == code_of(load(*change, helper=helper))


def test_a_call_changes_nothing(load):
    """What a function notes in its module is none of its code."""
    function = load()
    before = code_of(function)
    function(2)
    assert sys.modules["planted"].calls == 1
    assert code_of(function) == before


def test_every_process_sees_the_same(load, tmp_path):
    mine = code_of(load())
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from strategies.tasks.code import code_of
        from planted import function
        print(code_of(function))
    """
    for seed in ("1", "2"):  # of the order of sets
        environment = without_launcher(os.environ) | {
            "PYTHONHASHSEED": seed,
            "OMPI_MCA_btl": "self",
        }
        told = subprocess.check_output(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
            env=environment | {"PYTHONPATH": os.pathsep.join(["."])},
            text=True,
        )
        assert told.strip() == str(mine)


def test_what_a_function_carries_is_data():
    def scaled(scale, task, shift=1):
        return scale * task + shift

    rows = np.arange(5)
    one = data_of(functools.partial(scaled, rows), None)
    assert data_of(functools.partial(scaled, rows.copy()), None) == one
    assert data_of(functools.partial(scaled, rows + 1), None) != one
    assert data_of(functools.partial(scaled, rows, shift=3), None).keys() - one.keys() == {
        "argument shift"
    }
    assert code_of(functools.partial(scaled, rows)) == code_of(functools.partial(scaled, rows + 1))

    def around(value):
        return lambda task: task + value

    assert data_of(around(1), None) != data_of(around(2), None)
    assert code_of(around(1)) == code_of(around(2))
    assert data_of(around(1), rows).keys() == {"data", "variable value"}


class Scaled:
    def __init__(self, by):
        self.by = by

    def __call__(self, task):
        return self.by * task

    def method(self, task):
        return self.by + task


@pytest.mark.parametrize("of", [lambda each: each, lambda each: each.method])
def test_an_object_is_code_and_data(of):
    one, other = of(Scaled(1)), of(Scaled(2))
    assert code_of(one) == code_of(other)
    assert __name__ in code_of(one)
    assert data_of(one, None) != data_of(other, None)
    assert data_of(one, None) == data_of(of(Scaled(1)), None)


def test_functions_that_a_function_is_given_are_code():
    def apply(function, task):
        return function(task)

    one, other = (functools.partial(apply, each) for each in (lambda x: x + 1, lambda x: x + 2))
    assert code_of(one) != code_of(other)
    assert data_of(one, None) != data_of(other, None)


def test_which_function_is_given_for_what_is_seen():
    def around(value):
        return lambda task: task + value

    def of(**given):
        return data_of(functools.partial(max, functions=given), None)

    one, other = around(1), around(2)
    assert of(a=one, b=other) == of(a=around(1), b=around(2))
    assert of(a=one, b=other) != of(a=other, b=one)
    assert of(a=np.sin) != of(a=np.cos)


GLOBALS = """
import threading
import helper

CONFIG = {"epochs": 2}
UNUSED = [1]
LOCK = threading.Lock()

def function(task):
    return CONFIG["epochs"] * len(helper.SIZES) * task.UNUSED

def locked(task):
    with LOCK:
        return task
"""


def test_global_variables_that_are_read_are_data(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def found(config="2", unused="1", sizes="3", name="function"):
        source = GLOBALS.replace('"epochs": 2', f'"epochs": {config}').replace("[1]", f"[{unused}]")
        (tmp_path / "reading.py").write_text(source)
        (tmp_path / "helper.py").write_text(f"SIZES = [{sizes}]")
        for module in ("reading", "helper"):
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
        try:
            return data_of(getattr(importlib.import_module("reading"), name), None)
        finally:
            del sys.modules["reading"], sys.modules["helper"]

    before = found()
    assert list(before) == ["variable CONFIG of reading", "variable SIZES of helper"]
    for change, name in ((dict(config=5), "CONFIG"), (dict(sizes=4), "SIZES")):
        after = found(**change)
        assert [each.split()[1] for each in before if before[each] != after[each]] == [name]
    assert found(unused=2) == before
    with pytest.warns(UserWarning, match="variable LOCK of reading: .* goes unnoticed"):
        assert found(name="locked") == {}
