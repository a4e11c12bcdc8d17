"""Your own model, strategy and data, from files of your own: `--model`, `--strategy`, `--data`.

`bench/user_code/README.md` says what the files must hold. With them, only the proof in
`tests/test_user_code.py` and the measurement in `bench/test_user_code.py` run.

A pytest plugin of the root conftest. Everything is loaded and tried once, before any test, and the
ranks agree on what came of it: a mistake is one sentence and the end of the run.
"""

import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from nn import SGD, Batch, Model, data
from nn.data import Dataset
from nn.layers.embedding import EmbeddingBag
from nn.sequences import Sequences
from strategies import (
    DataParallel,
    Hybrid,
    Pipeline,
    Sequential,
    SharedDataParallel,
    TensorParallel,
    ZeRO,
)

FILE = "test_user_code.py"
"""The name of the test files that the doors lead to."""

Build = Callable[[Any, Any, Any], Any]
"""(model, optimizer, comm) -> strategy."""

Rows = Callable[..., Batch]
"""(index=) -> a batch of these rows; without an index of all that there are."""

EXACT: dict[str, Build] = {
    "DataParallel": DataParallel,
    "DataParallel-2-buckets": partial(DataParallel, buckets=2),
    "SharedDataParallel": SharedDataParallel,
    "ZeRO-1": ZeRO,
    "ZeRO-2": partial(ZeRO, stage=2),
    "ZeRO-3": partial(ZeRO, stage=3),
    "TensorParallel": TensorParallel,
    "Pipeline": partial(Pipeline, micro_batches=2),
    "Hybrid": lambda model, optimizer, comm: _hybrid(model, optimizer, comm),
}
"""Our strategies that train the weights of plain training: what a model of yours is tried with."""


def _hybrid(model: Any, optimizer: Any, comm: Any) -> Hybrid:
    stages = 1 if comm.size % 2 else 2
    return Hybrid(model, optimizer, comm, data=comm.size // stages, stages=stages)


class DoorError(ValueError):
    """What is behind a door is not what was expected; a sentence that says what to do."""


@dataclass(frozen=True)
class Net:
    """A model, and the rows that it is trained on.

    Attributes:
        build: dtype -> a new model, each time with the same parameters.
        rows: to take batches from; by default random rows that fit the model.
        device: where it computes.
    """

    name: str
    build: Callable[[str], Any]
    rows: Rows | None = None
    device: str = "cpu"

    def on(self, device: str) -> "Net":
        """The same net on another device.

        Raises:
            DoorError: it computes by numpy, on the CPU alone.
        """
        if device == self.device:
            return self
        if not hasattr(self.build("float32"), "converted"):
            raise DoorError(f"{self.name} is a net of numpy: expected --device cpu, not {device}")
        return replace(
            self, build=lambda dtype: self.build(dtype).converted(dtype, device), device=device
        )

    def batches(self, sizes: Sequence[int], dtype: str = "float64", seed: int = 0) -> list[Batch]:
        """Global batches of the given sizes, the same on every rank.

        Raises:
            ValueError: more rows in a batch than there are.
        """
        if self.rows is None:
            return random_batches(self.build(dtype), sizes, seed)
        there = len(self.rows())
        if max(sizes) > there:
            raise ValueError(f"a batch of {max(sizes)} rows, and --data has {there}")
        rng = np.random.default_rng(seed)
        return [self.rows(index=rng.permutation(there)[:n]) for n in sizes]


@dataclass(frozen=True)
class Yours:
    """What came through the doors; None where a door was not used."""

    net: Net | None = None
    strategy: Build | None = None
    strategy_name: str = ""

    def strategies(self) -> dict[str, Build]:
        """Yours, or else all of ours that are exact."""
        return {self.strategy_name: self.strategy} if self.strategy else EXACT

    def nets(self, ours: dict[str, Net]) -> dict[str, Net]:
        """Yours, or else the given ones of ours."""
        return {self.net.name: self.net} if self.net else ours


YOURS = pytest.StashKey[Yours | None]()


def of(config: pytest.Config) -> Yours:
    """What came through the doors of this run."""
    return config.stash[YOURS] or Yours()


def runs_silent(build: Build) -> bool:
    """Whether a strategy runs on without messages: `runs_silent = False` in its class says no."""
    return bool(getattr(getattr(build, "func", build), "runs_silent", True))


# Loading

_FILES = set[str]()
"""The user's files that were run."""


def load_model(door: str, rows: Rows | None = None) -> Net:
    """The model that `path/to/file.py:factory` makes, tried on two rows.

    Raises:
        DoorError: no such file or name, or what it gives cannot be trained.
    """
    factory, name = _attribute(door, "--model", "factory")
    if not callable(factory):
        raise DoorError(
            f"--model {door}: {name} is {_kind(factory)}; expected a function without arguments "
            "that returns a model"
        )

    def build(dtype: str) -> Any:
        with _blamed(f"--model {door}: {name}()"), _seeded():
            return _as_model(factory(), dtype, factory, door, rows)

    net = Net(name, build, rows)
    single, double = ([build(dtype) for _ in range(2)] for dtype in ("float32", "float64"))
    shared = (
        x for one, other in (single, double) for x in one.layers for y in other.layers if x is y
    )
    if any(layer.n_params for layer in shared):
        raise DoorError(
            f"--model {door}: {name}() gives the same layers at each call, so that what is trained "
            "plainly and by a strategy would be one; expected new ones: make them in the function"
        )
    start, again = (model.params for model in double)
    if not np.array_equal(start, again, equal_nan=True):
        raise DoorError(
            f"--model {door}: {name}() gives other parameters at each call; expected the same "
            "ones, since every rank calls it for itself: seed what it draws from"
        )
    if not start.size:
        raise DoorError(f"--model {door}: {name}() has no parameters; expected something to train")
    whose = "its rows" if rows else "random rows, for want of --data,"
    with _blamed(f"--model {door}: training on {whose}"):
        batch = _extremes(rows) if rows else net.batches([2])[0]
        if not np.isfinite(Sequential(double[0], SGD(0.0)).step(batch)):
            raise DoorError(f"--model {door}: the loss of the first rows is not finite")
    return replace(net, device=str(getattr(single[0].layers[0], "device", "cpu")))


def load_strategy(door: str) -> tuple[str, Build]:
    """The class that `path/to/file.py:Class` names, and its name.

    Raises:
        DoorError: no such file or name, or no class with the methods of a strategy.
    """
    strategy, name = _attribute(door, "--strategy", "Class")
    made = strategy.func if isinstance(strategy, partial) else strategy
    missing = [m for m in ("step", "weights", "close") if not callable(getattr(made, m, None))]
    if not inspect.isclass(made) or missing:
        raise DoorError(
            f"--strategy {door}: {name} is {_kind(made)}"
            + (f" without {', '.join(missing)}" if inspect.isclass(made) else "")
            + "; expected a class with step(batch), weights() and close(), as those that derive "
            "from strategies.Strategy have"
        )
    return name, strategy


def _extremes(rows: Rows) -> Batch:
    """The row with the smallest label and the one with the largest."""
    labels = rows().y.reshape(len(rows()), -1)  # a row of tokens has many
    return rows(index=[labels.min(axis=1).argmin(), labels.max(axis=1).argmax()])


def load_data(door: str) -> Rows:
    """The rows of a named set, of a .npz or .mat file, or what a function returns.

    Raises:
        DoorError: none of these, or they make no batches.
    """
    with _blamed(f"--data {door}"):
        rows: Any
        if _names_python(door):
            function, _ = _attribute(door, "--data", "function")
            rows = function() if callable(function) else function
        elif Path(door).suffix in (".npz", ".mat"):
            rows = data.load("file", path=door)
        else:
            rows = data.load(door)
        made = _as_rows(rows)
        if made is None:
            raise DoorError(
                f"--data {door}: got {_kind(rows)}; expected (x, y), a nn.Batch, "
                "nn.sequences.Sequences or a nn.data set"
            )
        if not len(made()):
            raise DoorError(f"--data {door}: no rows; expected at least one")
        return made


def _as_rows(rows: Any) -> Rows | None:
    if isinstance(rows, Sequences):
        return partial(Sequences, rows.tokens)
    if isinstance(rows, Batch | Dataset):
        rows = rows.x, rows.y
    return partial(Batch, *rows) if isinstance(rows, tuple) and len(rows) == 2 else None


def _names_python(door: str) -> bool:
    return ".py:" in door or door.endswith(".py")


def _attribute(door: str, option: str, what: str) -> tuple[Any, str]:
    """What `door`, path/to/file.py:name, names; and the name."""
    path, _, name = door.rpartition(":")
    if not path or not name.isidentifier():
        raise DoorError(f"{option} {door}: expected path/to/file.py:{what}")
    if not Path(path).is_file():
        raise DoorError(f"{option} {door}: there is no file {path} in {Path.cwd()}")
    module = _module(Path(path).resolve(), option, door)
    if not hasattr(module, name):
        names = [n for n in vars(module) if not n.startswith("_")]
        close = get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"
        raise DoorError(f"{option} {door}: {path} defines no {name}; {hint}")
    return getattr(module, name), name


def _module(path: Path, option: str, door: str) -> ModuleType:
    """A file as a module; one file is run once, whichever doors name it."""
    name = f"yours_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DoorError(f"{option} {door}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    _FILES.add(str(path))
    sys.modules[name] = module  # dataclasses and pickles look their module up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # it may import its neighbours
    with _blamed(f"{option} {door}: importing {path}"):
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


@contextmanager
def _blamed(place: str) -> Iterator[None]:
    """Errors of the user's code become a sentence that says whose they are, and where."""
    try:
        yield
    except DoorError:
        raise
    except (Exception, SystemExit) as error:
        lines = traceback.extract_tb(error.__traceback__)
        theirs = [line for line in lines if line.filename in _FILES]
        at = f" at {Path(theirs[-1].filename).name}:{theirs[-1].lineno}" if theirs else ""
        raise DoorError(f"{place} raised {type(error).__name__}{at}: {error}") from error


@contextmanager
def _seeded() -> Iterator[None]:
    """The same draws in every call; what the generators were at comes back."""
    state = np.random.get_state()  # noqa: NPY002  # the user's code may draw from it
    np.random.seed(0)  # noqa: NPY002
    try:
        if torch := sys.modules.get("torch"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                yield
        else:
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _as_model(made: Any, dtype: str, factory: Any, door: str, rows: Rows | None) -> Model:
    """A model of that dtype with the same parameters; torch modules are wrapped."""
    torch = sys.modules.get("torch")  # whoever makes a module has imported it
    if torch and isinstance(made, torch.nn.Module):
        return _wrapped(made, dtype, _input_shape(made, factory, rows), door)
    if not isinstance(made, Model):
        raise DoorError(
            f"--model {door}: it returned {_kind(made)}; expected a nn.Model, a TorchModel or a "
            "torch.nn.Module"
        )
    if getattr(made, "sync_batch_norm", None):
        raise DoorError(
            f"--model {door}: it has sync_batch_norm, and plain training would wait in it for the "
            "other ranks; expected a model without, of which a strategy of yours makes one with it"
        )
    if str(made.dtype) == dtype:
        return made
    if hasattr(made, "converted"):  # a TorchModel: torch's buffers have a dtype too
        return made.converted(dtype)
    params = made.params.astype(dtype)
    made.bind(params, np.zeros_like(params))
    return made


def _wrapped(module: Any, dtype: str, input_shape: Any, door: str) -> Model:
    from nn.torch.model import TorchModel  # torch takes a second to import

    try:
        return TorchModel(module, dtype=dtype, seed=None, input_shape=input_shape)
    except ValueError as error:
        if input_shape is None and "input_shape" in str(error):
            name = door.rpartition(":")[2]
            raise DoorError(
                f"--model {door}: its first layer does not say what rows it takes; write "
                f"`{name}.input_shape = (1, 28, 28)`, or whatever it is, below the function"
            ) from error
        raise


def _input_shape(module: Any, factory: Any, rows: Rows | None) -> Any:
    """What the factory or the module says of its rows, or what the rows are."""
    for one in (factory, module):
        if (shape := getattr(one, "input_shape", None)) is not None:
            return shape
    return rows(index=[0]).x.shape[1:] if rows else None


def _kind(value: Any) -> str:
    """What something is, in words."""
    if inspect.isclass(value):
        return "a class"
    if inspect.isfunction(value):
        return "a function"
    return "None" if value is None else f"an object of type {type(value).__name__}"


def random_batches(model: Any, sizes: Sequence[int], seed: int = 0) -> list[Batch]:
    """Batches that fit a model, the same on every rank; of words most are 0, 1, 2, or none."""
    rng = np.random.default_rng(seed)
    classes = _classes(model)
    whole = np.trunc if isinstance(model.layers[0], EmbeddingBag) else np.asarray

    def x(n: int) -> NDArray:
        return whole(rng.standard_normal((n, *model.input_shape))).astype(model.dtype)

    return [Batch(x(n), rng.integers(0, classes, n)) for n in sizes]


def _classes(model: Any) -> int:
    return math.prod(model.row_shape(len(model.layers)))


# The plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lockstep: your own (see bench/user_code/README.md)")
    group.addoption("--model", metavar="FILE.py:FACTORY", help="a function that returns your model")
    group.addoption("--strategy", metavar="FILE.py:CLASS", help="your strategy")
    group.addoption(
        "--data",
        metavar="WHAT",
        help="rows for your model: a name of nn.data, a .npz or .mat file, FILE.py:FUNCTION; "
        "by default random rows of its input shape",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Load and try what is behind the doors. The ranks agree on it: all go on, or none."""
    config.stash[YOURS], problem = None, ""
    model, strategy, rows = (config.getoption(f"--{d}") for d in ("model", "strategy", "data"))
    if not (model or strategy or rows):
        return
    ranks: Any = config.pluginmanager.get_plugin("ranks")
    try:
        with ranks.watchdog.phase(ranks.deadline):
            config.stash[YOURS] = _load(model, strategy, rows, config.getoption("--device") or ())
    except DoorError as error:
        problem = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as stopped:  # by the watchdog
        problem = f"loading your own files: {stopped}"
    answers = ranks.meeting.exchange("your own files", {"problem": problem}, ranks.deadline)
    problems = {rank: answer["problem"] for rank, answer in answers.items() if answer["problem"]}
    for rank, text in ranks.meeting.dead.items():
        problems[rank] = f"loading your own files: {text or 'it died'}"
    if problems:
        rank, said = min(problems.items())
        alone = "" if len(problems) == ranks.control.comm.size else f" (rank {rank}, not all)"
        _end(ranks, said + alone)


def _end(ranks: Any, said: str) -> NoReturn:
    """One sentence, not one from every rank, and the exit code of wrong usage."""
    ranks.code = int(pytest.ExitCode.USAGE_ERROR)
    leads = ranks.control.rank == ranks.control.leader
    if leads and not ranks.control.can_finalize:
        ranks.watchdog.print_now(f"ERROR: {said}")  # ranks have died: pytest itself is not to end
    raise pytest.UsageError(*([said] if leads else []))


def _load(
    model: str | None, strategy: str | None, rows: str | None, devices: Sequence[str] = ()
) -> Yours:
    if rows and not model:
        raise DoorError("--data is for a model of yours: expected --model too")
    loaded = load_data(rows) if rows else None
    net = load_model(model, loaded) if model else None
    for device in devices:
        if net:
            with _blamed(f"--device {device}"):
                net.on(device).build("float32")
    name, build = load_strategy(strategy) if strategy else ("", None)
    return Yours(net, build, name)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With an open door only what is behind it runs, and else never."""
    if not collection_path.is_file() or collection_path.name == "conftest.py":
        return None
    if (config.stash.get(YOURS, None) is None) == (collection_path.name == FILE):
        return True
    return None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where all trials were skipped nothing is known of your own: that is no success."""
    if session.exitstatus == pytest.ExitCode.OK and _unknown(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for file in _unknown(terminalreporter.config):
        said = f"ERROR: {file}: each trial was skipped, so nothing is known of your own"
        terminalreporter.write_line(said, red=True)


def _unknown(config: pytest.Config) -> list[str]:
    """Files of trials that were all skipped."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if not config.stash[YOURS] or terminal is None:
        return []
    files = {
        outcome: {report.nodeid.split("::")[0] for report in terminal.stats.get(outcome, ())}
        for outcome in ("passed", "failed", "error", "skipped")
    }
    return sorted(files.pop("skipped").difference(*files.values()))
