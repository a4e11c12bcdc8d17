"""A user's own loop is held against plain training, and a failure says what to check."""

import numpy as np
import pytest
import torch

from bench.user_code import UserCodeError
from bench.user_code.nets import Net
from bench.user_code.reference import Reference, as_vector
from nn import SGD, lr_schedules, mlp
from tests.test_own_loop import SIZES, compare

pytestmark = pytest.mark.workers(1)

RATE = lr_schedules.cosine(0.2, 20)
NET = Net("net", lambda dtype: mlp([3, 6, 2], seed=1, dtype=dtype))


def loop(reduction="mean", shift=0, decay_biases=False, seed=1, trained=4):
    """Make a plain loop of torch with one fault at most."""

    def train(batches):
        start = mlp([3, 6, 2], seed=seed, dtype="float64")
        weights = [torch.tensor(p) for layer in start.layers for p in layer.params]
        for weight in weights:
            weight.requires_grad_()
        decayed = weights if decay_biases else weights[::2]
        others = [w for w in weights[:trained] if not any(w is one for one in decayed)]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others}]
        optimizer = torch.optim.SGD(groups, 0.2)
        for step, (x, y) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = RATE(step + shift)
            x, y = torch.from_numpy(x), torch.from_numpy(y)
            logits = torch.relu(x @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, y, reduction=reduction).backward()
            optimizer.step()
        return weights

    return Reference("the loop", train)


class Decays(SGD):
    """SGD that decays matrices only."""

    def __init__(self):
        super().__init__(RATE)
        self.decay = np.concatenate([np.full(p.size, 0.1 * (len(p.shape) > 1)) for p in PARAMETERS])

    def apply(self, params, grads, lr):
        super().apply(params, grads + self.decay * params, lr)


PARAMETERS = mlp([3, 6, 2]).parameters


def test_a_right_loop_is_equal():
    compare(loop(), NET, Decays, SIZES)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"seed": 2}, "your loop begins with other weights: 0.weight"),
        ({"decay_biases": True}, "Only biases and norms differ: check the groups"),
        ({"trained": 2}, "Your loop did not move 2.bias: check what its optimizer is given"),
        ({"shift": 1}, "its learning rate is that of step 1, not 0"),
        ({"reduction": "sum"}, "step 0: .* in 4 of 4 parameters"),
    ],
)
def test_a_fault_is_found_and_named(fault, said):
    with pytest.raises(pytest.fail.Exception, match=said):
        compare(loop(**fault), NET, Decays, SIZES)


def test_weights_may_come_in_any_form():
    model = mlp([2, 2], dtype="float64")
    parts = [torch.from_numpy(p) for p in model.layers[0].params]
    named = {"0.bias": parts[1], "0.weight": parts[0], "buffer": torch.ones(1)}
    for found in (parts, named, model, model.params, torch.from_numpy(model.params)):
        np.testing.assert_array_equal(as_vector(found, model, "it"), model.params)
    for found, said in (
        ({"0.weight": parts[0]}, "it returned no 0.bias; expected the parameters by the model's"),
        (parts[:1], r"returned 1 tensors of \[4\] numbers; expected the model's 2 of \[4, 2\]"),
        (np.ones(3), "returned 3 numbers; expected the model's 6"),
        (np.ones(6, np.float32), r"returned float32 weights; expected float64"),
        ("six", "expected weights: a vector, a list of tensors"),
    ):
        with pytest.raises(UserCodeError, match=said):
            as_vector(found, model, "it")
