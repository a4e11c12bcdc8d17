"""A training step without Python: `mlp.cpp` beside this file, built here and run as a program.

program = build(folder)                                 # Missing where there is no compiler
write_job(folder / "job", mlp([784, 256, 10]), 0.01, batches)
with Trainer(program, folder / "job", ranks=2) as trainer:
    seconds = trainer.steps(first=0, count=10)
    weights = trainer.weights()

Its BLAS is the package scipy-openblas32, in the version that numpy's wheel carries (constraints.txt
pins it), so that both compute the same products equally fast.
"""

import os
import select
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.core.cores import available, unbound
from bench.core.fingerprint import LAUNCHER
from bench.peers.fully_connected import linears_of
from nn import Batch, Model
from strategies.launchers import without_launcher

SOURCE = Path(__file__).with_name("mlp.cpp")
OPTIONS = ("-std=c++17", "-O3", "-march=native", "-Wall", "-Wextra", "-Werror")

PATIENCE = 120.0
"""Seconds in which the program is to answer an order: far more than the steps of a turn take."""

END = 10.0
"""Seconds in which the program is to end."""


class Missing(Exception):
    """What is needed to build or start the program is not there; the text says what."""


def build(folder: Path) -> Path:
    """Compile the program into a folder, with the compiler of this environment's MPI.

    Raises:
        Missing: no scipy-openblas32, no mpicxx, or no compiler under it.
        RuntimeError: the compiler refused the source.
    """
    try:
        import scipy_openblas32 as openblas
    except ImportError:
        raise Missing("no BLAS for C++: install scipy-openblas32") from None
    compiler = _beside_python("mpicxx")
    if subprocess.run([compiler, "--version"], capture_output=True, check=False).returncode:
        raise Missing(f"{compiler} finds no C++ compiler: install g++")
    program, libraries = folder / "mlp", openblas.get_lib_dir()
    command = [compiler, *OPTIONS, f"-I{openblas.get_include_dir()}", str(SOURCE), "-o"]
    command += [str(program), f"-L{libraries}", f"-l{openblas.get_library()}"]
    done = subprocess.run(
        [*command, f"-Wl,-rpath,{libraries}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{SOURCE} does not compile:\n{done.stderr}")
    return program


def write_job(path: Path, model: Model, lr: float, batches: Sequence[Batch]) -> None:
    """Write what the program trains: the net with its weights, and batches of equal length.

    Raises:
        ValueError: as `linears_of`; or the batches differ in length, or have weights.
    """
    linears = linears_of(model)
    rows = {len(batch) for batch in batches}
    if len(rows) != 1 or any(batch.weights is not None for batch in batches):
        raise ValueError(f"batches of {sorted(rows)} rows: expected one length, and no weights")
    sizes = [linears[0].inputs, *(layer.outputs for layer in linears)]
    head = np.array([model.dtype.itemsize, len(sizes), *rows, len(batches), *sizes], np.int64)
    with path.open("wb") as file:
        for array in (head, np.array([lr], np.float64), model.params):
            array.tofile(file)
        for batch in batches:
            batch.x.astype(model.dtype).tofile(file)
        for batch in batches:
            batch.y.astype(np.int64).tofile(file)


class Trainer:
    """The running program. It sleeps, on all of its ranks, until it gets an order.

    Args:
        program: what `build` returned.
        job: a file that `write_job` wrote.
        ranks: processes, each of which trains on its part of every batch. A single one is started
            without a launcher, on the core of this process; several are bound to cores of theirs.

    Raises:
        Missing: there is no mpiexec for several ranks.
    """

    def __init__(self, program: Path, job: Path, ranks: int = 1):
        self._job, self._loss = job, np.nan
        command = [str(program), str(job)]
        if ranks > 1:
            given = shlex.split(os.environ.get(LAUNCHER, "")) or [_beside_python("mpiexec")]
            command = [*given, "-n", str(ranks), *command]
        environment = without_launcher(os.environ)  # it is no rank of this launch
        if ranks > available():
            # A rank does not see the mapping policy of its own launch, so it is set again.
            environment.setdefault("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
        self._said, self._launched = job.with_suffix(".said"), list[psutil.Process]()
        with unbound() if ranks > 1 else nullcontext(), self._said.open("wb") as said:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=environment,
            )

    def steps(self, first: int, count: int, untimed: int = 0) -> float:
        """Train on `count` batches from number `first` on, and return the seconds it took.

        Args:
            untimed: steps before that, on the same batches, which bring data into the caches.
        """
        return self._order(f"steps {first} {count} {untimed}")

    def weights(self) -> NDArray:
        """Return all parameters, in the order of `Model.params`."""
        path = self._job.with_suffix(".weights")
        self._loss = self._order(f"weights {path.absolute()}")
        item = int(np.fromfile(self._job, np.int64, 1)[0])
        return np.fromfile(path, f"f{item}")

    @property
    def loss(self) -> float:
        """The loss of the last step before `weights` was called."""
        return self._loss

    def _order(self, line: str) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._note()
        with suppress(BrokenPipeError):  # what it said last is below
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self._kill()
            raise RuntimeError(f"mlp gave no answer for {PATIENCE:g} s{self._last_words()}")
        answer = self._process.stdout.readline()
        if not answer:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END)
            code = self._process.poll()
            self._kill()
            raise RuntimeError(f"mlp ended with code {code}{self._last_words()}")
        return float(answer)

    def _last_words(self) -> str:
        said = self._said.read_text(errors="replace").strip()
        return f", saying:\n{said}" if said else ", and said nothing"

    def close(self) -> None:
        """End the program, by force if it does not end by itself."""
        self._note()
        if self._process.poll() is None:
            with suppress(BrokenPipeError, subprocess.TimeoutExpired):
                self._process.communicate("\n", timeout=END)
        self._kill()

    def _note(self) -> None:
        """Note the processes that it consists of, while they can be found."""
        if self._process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                launched = psutil.Process(self._process.pid)
                self._launched = [*launched.children(recursive=True), launched]

    def _kill(self) -> None:
        """Kill what is left of it: its ranks too, which a launcher that dies leaves behind."""
        self._note()
        for process in self._launched:  # psutil knows a number that another process has by now
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=END)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _beside_python(name: str) -> str:
    """Return a program of this environment, or else of the path.

    Raises:
        Missing: there is none.
    """
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    found = shutil.which(name, path=places)
    if found is None:
        raise Missing(f"no {name}: install an MPI")
    return found
