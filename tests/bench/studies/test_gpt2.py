"""The study of GPT-2 counts each row once on any number of ranks, and finds where curves part."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.report.kinds import FineTuning
from bench.studies import conftest, gpt2_options
from nn import SGD
from nn.data.text import Text
from strategies import DataParallel, Sequential, TensorParallel
from tests.support.optional import needs

WORDS, LENGTH = 11, 5


class Untokenized:
    """Stands for a tokenizer, where only numbers are needed."""

    size, end = WORDS, 0


def data() -> Text:
    """22 rows to train on and 5 to test with, which 2 and 3 ranks cannot share out evenly."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, WORDS, rows * LENGTH + 1, np.int32) for rows in (22, 5))
    tokenizer: Any = Untokenized()
    return Text("some", train, test, tokenizer, LENGTH)


def model():
    from nn.torch.gpt2 import gpt2
    from nn.torch.model import TorchModel

    net = partial(gpt2, 2, 3, 12, WORDS, LENGTH, tied=True)
    made = TorchModel(net, dtype="float64", input_shape=(LENGTH,))
    made.params[:] += np.random.default_rng(1).normal(0, 0.2, len(made.params))
    return made


def curves(strategy) -> FineTuning:
    from bench.studies import gpt2

    about = dict(strategy="some", what="tuned", net="gpt2", dataset="some")
    return gpt2.fine_tuned(strategy, data(), model(), about, epochs=2, batch_size=4, every=4)


def trained(comm, make=Sequential, *on) -> FineTuning:
    from bench.studies import gpt2

    return curves(make(model(), gpt2.recipe(12), *on))


@needs("tokenizers", "safetensors")
@pytest.mark.workers(2, 3)
@pytest.mark.parametrize("make", [DataParallel, TensorParallel])
def test_curves_of_ranks_are_those_of_plain_training(comm, make):
    from bench.studies import gpt2

    plain, found = trained(comm), trained(comm, make, comm)
    assert found.workers == comm.size
    assert gpt2.apart(found, plain) == (
        pytest.approx(0, abs=1e-12),
        pytest.approx(0, abs=1e-12),
        None,
    )
    assert found.eval_loss == pytest.approx(plain.eval_loss, rel=1e-12)
    assert found.eval_step == plain.eval_step == [0, 4, 8, 12]
    assert found.eval_rows == 5
    assert found.global_step == [*range(1, 13)]
    assert found.epoch == pytest.approx([*(np.r_[4:21:4, 22] / 22), *(np.r_[26:43:4, 44] / 22)])
    assert found.learning_rate == plain.learning_rate
    assert max(found.learning_rate) == gpt2.LEARNING_RATE
    assert min(found.grad_norm) > 0.1
    # Rates are of all ranks, whichever rank is asked.
    assert found.samples == plain.samples == 44
    assert found.train_samples_per_second * found.seconds[-1] == pytest.approx(44)
    assert found.train_tokens_per_second * found.seconds[-1] == pytest.approx(44 * LENGTH)
    assert found.eval_samples_per_second[1] * found.eval_runtime[1] == pytest.approx(5)
    assert found.eval_steps_per_second[1] * found.eval_runtime[1] == pytest.approx(2)


@needs("tokenizers", "safetensors")
@pytest.mark.workers(2, 4)
def test_every_strategy_of_the_study_has_the_curves_of_plain_training(comm):
    from bench.studies import gpt2

    plain = trained(comm, gpt2.BUILD[gpt2.PLAIN])
    makes = gpt2.strategies_on(comm.size)
    assert ("Hybrid, 2 stages x 2" in makes) == (comm.size == 4)
    for name, make in makes.items():
        if name != gpt2.PLAIN:
            found = trained(comm, make, comm)
            loss, norm, beyond = gpt2.apart(found, plain)
            assert beyond is None, name
            assert max(loss, norm) < 1e-9, name
            assert found.eval_loss == pytest.approx(plain.eval_loss, rel=1e-9), name
            assert (found.eval_rows, found.samples) == (5, 44), name


@needs("tokenizers", "safetensors")
@pytest.mark.workers(1)
def test_the_loss_of_an_evaluation_is_that_of_all_labels(comm):
    found = trained(comm)
    judge = model()
    assert found.eval_loss[0] == pytest.approx(judge.gradients(data().test), rel=1e-13)
    assert found.eval_loss[-1] != found.eval_loss[0]


class OwnMeans(DataParallel):
    """Takes the mean of the ranks' means, which is wrong where shards are uneven."""

    def gradients(self, batch):
        own = batch.shard(self.comm.rank, self.comm.size).as_global()
        loss = self.model.gradients(own) / self.comm.size
        self.model.grads[:] /= self.comm.size
        return loss


@needs("tokenizers", "safetensors")
@pytest.mark.workers(3)
def test_a_wrong_strategy_is_found_at_its_step_and_its_tensor(comm):
    from bench.studies import gpt2

    plain, wrong = trained(comm), trained(comm, OwnMeans, comm)
    loss, norm, step = gpt2.apart(wrong, plain)
    assert min(loss, norm) > 1e-3
    assert step == 0
    make = OwnMeans(model(), SGD(0.1), comm), Sequential(model(), SGD(0.1))
    where = gpt2.located(*make, list(data().batches(4)), step)
    assert "step 0, gradient, layer " in where
    assert "parameter " in where


@needs("tokenizers", "safetensors")
@pytest.mark.workers(1)
def test_the_first_step_beyond_the_tolerance_counts(comm):
    from bench.studies import gpt2

    plain = trained(comm)
    later = replace(plain, loss=[loss * (1 + 1e-8 * (i > 6)) for i, loss in enumerate(plain.loss)])
    assert gpt2.apart(later, plain) == (pytest.approx(1e-8, rel=1e-3), 0, 7)
    norms = [float("nan"), *plain.grad_norm[1:]]
    assert gpt2.apart(replace(plain, grad_norm=norms), plain)[2] == 0


@needs("tokenizers", "safetensors")
@pytest.mark.workers(2)
def test_where_rounding_parts_two_trainings_is_named(comm):
    from bench.studies import gpt2

    batches = list(data().batches(4))
    strategy, oracle = TensorParallel(model(), SGD(0.1), comm), Sequential(model(), SGD(0.1))
    said = gpt2.parted(strategy, oracle, batches)
    assert said.startswith("step 1, in ")
    assert f"of {len(oracle.parameters)} tensors, most in " in said
    same = (Sequential(model(), SGD(0.1)) for _ in range(2))
    assert gpt2.parted(*same, batches) == f"nowhere in {len(batches)} steps"


@needs("tokenizers", "safetensors")
@pytest.mark.workers(1)
def test_the_tuned_net_is_saved_loaded_and_writes(tmp_path, comm):
    from bench.studies import gpt2
    from nn.data.text import Tokenizer
    from nn.torch.gpt2 import gpt2 as build
    from nn.torch.model import TorchModel

    tokenizer = Tokenizer.train([b"a text of a few words"], 270)
    net = partial(build, 1, 2, 8, tokenizer.size, LENGTH, tied=True)
    before = TorchModel(net, input_shape=(LENGTH,))
    tuned = np.random.default_rng(0).normal(0, 1, len(before.params)).astype(np.float32)
    first, second = gpt2.save_and_write(before, tuned, tokenizer, tmp_path / "tuned", "a te")
    assert (first.what, second.what) == ("before", "tuned")
    assert first.text != second.text
    assert first.prompt == second.prompt == "a te"
    names = {"config.json", "model.safetensors", "vocab.json", "merges.txt"}
    assert {path.name for path in (tmp_path / "tuned").iterdir()} == names


@pytest.mark.workers(1)
def test_arguments(tmp_path):
    parser = pytest.Parser(_ispytest=True)
    conftest.pytest_addoption(parser)
    parser.addoption("--quick", action="store_true")

    def options(*line: str):
        found = parser.parse(line)
        config: Any = SimpleNamespace(getoption=lambda name: getattr(found, name))
        return gpt2_options.options_of(config)

    usual = options()
    assert usual.sizes == dict(layers=4, heads=4, width=128, vocabulary=1024, context=64)
    assert (usual.steps, usual.epochs, usual.batch, usual.dtype) == (120, 1, 16, "float32")
    assert options("--quick").steps == 20
    path = tmp_path / "a.csv"
    path.write_text("a,b,c\nTask,code,1 2\n")
    line = f"--gpt2-problems {path} --gpt2-columns a,b,c --epochs 3 --gpt2-sizes 1,2,8,300,16"
    chosen = options(*line.split())
    assert chosen.sizes["vocabulary"] == 300
    assert chosen.epochs == 3
    (problem,) = chosen.read_problems()
    assert problem.prompt == "Task\n\nInput:\n1 2\n\nSolution:\n"
    for wrong in (
        "--gpt2-sizes=1,2",
        "--gpt2-sizes=a,b,c,d,e",
        "--gpt2-columns=a",
        "--gpt2-columns=,b",
    ):
        with pytest.raises(pytest.UsageError, match="expected"):
            options(wrong)
