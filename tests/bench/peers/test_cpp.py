"""The program in C++ trains as plain training does: else its time could not be compared."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pytest
from threadpoolctl import threadpool_info

from bench.peers import cpp
from bench.peers.cpp import Missing, Trainer, build, write_job
from nn import SGD, Batch, Model, cnn, mlp
from nn.layers import Linear, Tanh
from nn.loss import CrossEntropy
from strategies import Sequential
from tests.support.optional import needs

pytestmark = pytest.mark.workers(1)

SIZES, RATE, STEPS = [6, 7, 5, 4], 0.3, 6


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("cpp"))
    except Missing as reason:
        pytest.skip(str(reason))


def batches(rows: int, count: int = 4) -> list[Batch]:
    rng = np.random.default_rng(rows)
    return [Batch(rng.standard_normal((rows, 6)), rng.integers(0, 4, rows)) for _ in range(count)]


@needs("scipy_openblas32")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("ranks", "rows"), [(1, 7), (3, 7), (3, 2)])
def test_it_trains_like_sequential(tmp_path, program, dtype, ranks, rows):
    """Also with uneven shards, and where a rank has no row."""
    model = mlp(SIZES, dtype=dtype, seed=1)
    write_job(tmp_path / "job", model, RATE, batches(rows))
    with Trainer(program, tmp_path / "job", ranks) as trainer:
        begin = trainer.weights()
        np.testing.assert_array_equal(begin, model.params)
        assert trainer.steps(1, STEPS) > 0
        found, loss = trainer.weights(), trainer.loss
    plain = Sequential(model, SGD(RATE))
    for i in range(1, 1 + STEPS):
        expected_loss = plain.step(batches(rows)[i % 4])
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert np.abs(found - begin).max() > 0.1
    np.testing.assert_allclose(found, plain.weights(), rtol=0, atol=tolerance)
    assert loss == pytest.approx(expected_loss, rel=tolerance)


@needs("scipy_openblas32")
def test_its_blas_is_that_of_numpy():
    """With another version, a race would compare two libraries: constraints.txt pins this one."""
    numpys = [each for each in threadpool_info() if "numpy.libs" in each["filepath"]]
    if not numpys:
        pytest.skip("this numpy is no wheel with a BLAS of its own")
    assert version("scipy-openblas32") == numpys[0]["version"]


@needs("scipy_openblas32")
def test_untimed_steps_train_too(tmp_path, program):
    model = mlp(SIZES, dtype="float64", seed=1)
    write_job(tmp_path / "job", model, RATE, batches(5))
    with Trainer(program, tmp_path / "job") as trainer:
        trainer.steps(2, 3, untimed=2)
        found = trainer.weights()
    plain = Sequential(model, SGD(RATE))
    for i in (2, 3, 2, 3, 4):
        plain.step(batches(5)[i % 4])
    np.testing.assert_allclose(found, plain.weights(), rtol=0, atol=1e-12)


@needs("scipy_openblas32")
@pytest.mark.parametrize("ranks", [1, 2])
def test_what_goes_wrong_there_is_an_error_here(tmp_path, program, ranks):
    (tmp_path / "job").write_bytes(b"short")
    with (
        Trainer(program, tmp_path / "job", ranks) as trainer,
        pytest.raises(RuntimeError, match=r"ended with code(.|\n)*the job ends too early"),
    ):
        trainer.weights()


def test_one_that_hangs_is_killed_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(cpp, "PATIENCE", 0.2)
    program = tmp_path / "hangs"
    program.write_text("#!/bin/sh\nsleep 60 & echo it sleeps >&2; wait\n")
    program.chmod(0o755)
    before = set(psutil.Process().children(recursive=True))
    with Trainer(program, tmp_path / "job") as trainer:
        with pytest.raises(RuntimeError, match=r"no answer for 0.2 s, saying:\nit sleeps"):
            trainer.weights()
        assert set(psutil.Process().children(recursive=True)) == before


def other_loss() -> Model:
    return mlp(SIZES, loss=CrossEntropy(label_smoothing=0.1))


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (cnn(), batches(3), "expected Linear layers with ReLU"),
        (Model([Linear(6, 5), Tanh(), Linear(5, 4)]), batches(3), "expected Linear layers"),
        (other_loss(), batches(3), r"expected CrossEntropy\(\)"),
        (mlp(SIZES), [*batches(3), *batches(4)], r"batches of \[3, 4\] rows: expected one"),
    ],
    ids=["cnn", "tanh", "loss", "lengths"],
)
def test_what_it_does_not_train_is_refused(tmp_path, model, given, message):
    with pytest.raises(ValueError, match=message):
        write_job(tmp_path / "job", model, RATE, given)


@needs("scipy_openblas32")
def test_without_a_compiler_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(cpp.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="no mpicxx: install an MPI"):
        build(tmp_path)
    wrapper = tmp_path / "mpicxx"
    wrapper.write_text("#!/bin/sh\nexit 1\n")
    wrapper.chmod(0o755)
    with pytest.raises(Missing, match="finds no C"):
        build(tmp_path)
