"""Batches of sequences have the right inputs and labels, and their loss is over all labels."""

from functools import partial

import numpy as np
import pytest
import torch

from nn.sequences import Sequences
from nn.torch.model import TorchModel
from nn.torch.zoo import build

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

TOKENS = np.arange(40).reshape(8, 5)


def test_inputs_and_labels():
    batch = Sequences(TOKENS, index=[6, 1])
    assert (len(batch), batch.length, batch.global_count) == (2, 4, 8)
    np.testing.assert_array_equal(batch.tokens, TOKENS[[6, 1]])
    np.testing.assert_array_equal(batch.x, [[30, 31, 32, 33], [5, 6, 7, 8]])
    np.testing.assert_array_equal(batch.y, [31, 32, 33, 34, 6, 7, 8, 9])


def test_shards_hold_whole_sequences_and_count_all_labels():
    batch = Sequences(TOKENS)
    parts = [batch.shard(1, 2).shard(k, 3) for k in range(3)]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert {part.global_count for part in [batch, *parts]} == {32}
    np.testing.assert_array_equal(np.concatenate([p.x for p in parts]), TOKENS[4:, :-1])
    np.testing.assert_array_equal(np.concatenate([p.y for p in parts]), TOKENS[4:, 1:].ravel())
    x, y = batch.part(3, 4)
    np.testing.assert_array_equal(x, TOKENS[6:, :-1])
    np.testing.assert_array_equal(y, TOKENS[6:, 1:].ravel())
    assert [parts[0].as_global().global_count, batch.shard(8, 9).as_global().global_count] == [8, 1]
    assert batch.shard(8, 9).y.shape == (0,)


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", TOKENS)
    batch = Sequences(np.load(tmp_path / "a.npy", mmap_mode="r+"))
    part = batch.shard(3, 4)
    np.load(tmp_path / "a.npy", mmap_mode="r+")[:] += 100
    np.testing.assert_array_equal(part.x, TOKENS[6:, :-1] + 100)


@pytest.mark.parametrize(
    "tokens", [np.arange(4), np.zeros((3, 1), int), np.zeros((3, 4)), [["a", "b"]]]
)
def test_wrong_tokens(tokens):
    with pytest.raises(ValueError, match="expected whole numbers, a row for each sequence"):
        Sequences(tokens)


def test_the_loss_is_the_mean_over_every_next_token():
    """Loss and gradient equal torch's, and no prediction depends on later tokens."""
    sizes = dict(layers=2, heads=2, width=8, vocabulary=7, context=5)
    model = TorchModel(partial(build, "gpt2", **sizes), dtype="float64", input_shape=(4,))
    tokens = np.random.default_rng(0).integers(0, 7, (6, 5))
    batch = Sequences(tokens)
    shares = [model.gradients(batch.shard(k, 4), add=k > 0) for k in range(4)]
    net = model.module
    logits = net(torch.from_numpy(tokens[:, :-1]))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(tokens[:, 1:]).flatten())
    assert sum(shares) == pytest.approx(loss.item(), rel=1e-13)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*net.parameters()])])
    np.testing.assert_allclose(model.grads, expected, rtol=0, atol=1e-14)
    assert np.abs(model.grads).max() > 1e-3

    changed = tokens.copy()
    changed[:, 2:] += 1
    changed %= 7
    others = net(torch.from_numpy(changed[:, :-1])).reshape(6, 4, 7)
    difference = (others - logits.reshape(6, 4, 7)).abs().amax(dim=(0, 2))
    assert (difference > 0).tolist() == [False, False, True, True]
