"""GPT-2 is the published net, and takes weights in the published format."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from nn.torch import layer as torch_layer
from nn.torch.gpt2 import gpt2
from nn.torch.gpt2_files import load_gpt2, load_gpt2_folder, save_gpt2, save_gpt2_folder
from nn.torch.model import TorchModel
from tests.support.optional import needs

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

LAYERS, HEADS, WIDTH, WORDS, CONTEXT = 2, 3, 12, 17, 6
SIZES = dict(layers=LAYERS, heads=HEADS, width=WIDTH, vocabulary=WORDS, context=CONTEXT)


def save_file(weights: dict[str, np.ndarray], path: Path) -> None:
    from safetensors import numpy as safetensors

    safetensors.save_file(weights, path)


def published(dtype=np.float32) -> dict[str, np.ndarray]:
    """Random weights under the published names and in the published shapes."""
    block: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (WIDTH,),
        "ln_1.bias": (WIDTH,),
        "attn.c_attn.weight": (WIDTH, 3 * WIDTH),
        "attn.c_attn.bias": (3 * WIDTH,),
        "attn.c_proj.weight": (WIDTH, WIDTH),
        "attn.c_proj.bias": (WIDTH,),
        "ln_2.weight": (WIDTH,),
        "ln_2.bias": (WIDTH,),
        "mlp.c_fc.weight": (WIDTH, 4 * WIDTH),
        "mlp.c_fc.bias": (4 * WIDTH,),
        "mlp.c_proj.weight": (4 * WIDTH, WIDTH),
        "mlp.c_proj.bias": (WIDTH,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (WORDS, WIDTH),
        "wpe.weight": (CONTEXT, WIDTH),
    }
    for i in range(LAYERS):
        shapes |= {f"h.{i}.{name}": shape for name, shape in block.items()}
    shapes |= {"ln_f.weight": (WIDTH,), "ln_f.bias": (WIDTH,)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.5, shape).astype(dtype) for name, shape in shapes.items()}


def logits(weights: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Logits of one sequence by the formulas of the paper, token by token and head by head."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def norm(x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
        return x * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    def attention(x, name):
        query, key, value = np.split(linear(x, name + ".c_attn"), 3, axis=1)
        y = np.zeros_like(query)
        for head in range(HEADS):
            own = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            for t in range(len(x)):
                scores = key[: t + 1, own] @ query[t, own] / np.sqrt(WIDTH / HEADS)
                share = np.exp(scores - scores.max())
                y[t, own] = share / share.sum() @ value[: t + 1, own]
        return linear(y, name + ".c_proj")

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    for i in range(LAYERS):
        x = x + attention(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn")
        hidden = gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"))
        x = x + linear(hidden, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ w.get("lm_head.weight", w["wte.weight"]).T


TOKENS = [[3, 16, 0, 3, 9], [1, 2, 2, 5, 11]]


@needs("safetensors")
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_published_weights_give_the_logits_of_the_formulas(tmp_path, prefix):
    weights = published()
    masks = {f"h.{i}.attn.bias": np.ones((1, 1, CONTEXT, CONTEXT), np.float32) for i in (0, 1)}
    masks["h.0.attn.masked_bias"] = np.array(-1e4, np.float32)
    named = {prefix + name: value for name, value in (weights | masks).items()}
    save_file(named, tmp_path / "model.safetensors")
    net = gpt2(**SIZES).double()
    assert load_gpt2(net, tmp_path / "model.safetensors") is net
    expected = np.concatenate([logits(weights, row) for row in TOKENS])
    found = net(torch.tensor(TOKENS)).detach().numpy()
    assert found.shape == (10, WORDS)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_array_equal(net(torch.tensor(TOKENS).double()).detach().numpy(), found)


@needs("safetensors")
def test_an_output_of_its_own_is_taken(tmp_path):
    weights = published()
    weights["lm_head.weight"] = weights["wte.weight"][::-1].copy()
    save_file(weights, tmp_path / "a")
    found = load_gpt2(gpt2(**SIZES).double(), tmp_path / "a")(torch.tensor(TOKENS[:1]))
    np.testing.assert_allclose(found.detach().numpy(), logits(weights, TOKENS[0]), rtol=1e-10)


@needs("safetensors")
def test_embedding_and_output_start_equal_and_are_two(tmp_path):
    save_file(published(), tmp_path / "a")
    net = load_gpt2(gpt2(**SIZES), tmp_path / "a")
    assert torch.equal(net[0].wte.weight, net[-2].weight)
    assert net[0].wte.weight.data_ptr() != net[-2].weight.data_ptr()


@needs("safetensors")
def test_a_tied_net_has_one_matrix(tmp_path):
    weights = published()
    save_file(weights, tmp_path / "a")
    model = load_gpt2(TorchModel(gpt2(**SIZES, tied=True), input_shape=(5,)), tmp_path / "a")
    assert len(model.params) == sum(w.size for w in weights.values())
    expected = np.concatenate([logits(weights, row) for row in TOKENS])
    np.testing.assert_allclose(model.forward(np.array(TOKENS))[0], expected, rtol=1e-4, atol=1e-4)
    weights["lm_head.weight"] = weights["wte.weight"][::-1].copy()
    save_file(weights, tmp_path / "b")
    with pytest.raises(ValueError, match=r"differs from wte\.weight, and the net is tied"):
        load_gpt2(model, tmp_path / "b")


@needs("safetensors")
def test_weights_of_lower_precision_are_converted(tmp_path):
    save_file(published(np.float16), tmp_path / "a")
    net = load_gpt2(gpt2(**SIZES), tmp_path / "a")
    assert {weight.dtype for weight in net.parameters()} == {torch.float32}
    np.testing.assert_allclose(net[-2].weight.detach(), published()["wte.weight"], atol=1e-3)


@needs("safetensors")
def test_a_model_being_trained_is_filled_in_its_own_memory(tmp_path):
    save_file(published(), tmp_path / "a")
    before = TorchModel(load_gpt2(gpt2(**SIZES), tmp_path / "a"), seed=None, input_shape=(5,))
    for filled in (lambda model: model, lambda model: model.module):
        after = TorchModel(gpt2(**SIZES), input_shape=(5,))
        net = filled(after)
        assert load_gpt2(net, tmp_path / "a") is net
        np.testing.assert_array_equal(after.params, before.params)
    assert len(after.params) == sum(w.size for w in published().values()) + WORDS * WIDTH


@needs("safetensors")
def test_a_model_on_a_device_with_memory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_layer, "in_host_memory", lambda device: False)
    save_file(published(), tmp_path / "a")
    model = load_gpt2(TorchModel(gpt2(**SIZES), input_shape=(5,)), tmp_path / "a")
    expected = np.concatenate([logits(published(), row) for row in TOKENS])
    np.testing.assert_allclose(model.forward(np.array(TOKENS))[0], expected, rtol=1e-4, atol=1e-4)


def test_a_token_that_is_not_in_the_vocabulary_is_named():
    model = TorchModel(gpt2(**SIZES), input_shape=(5,))
    with pytest.raises(ValueError, match=r"17 is no row of Embedding\(17, 12\): .* 0 to 16"):
        model.forward(np.array([[0, 1, 16, 17, 2]]))


@needs("safetensors")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path, wrapped, tied):
    from safetensors.numpy import load_file

    net = gpt2(**SIZES, tied=tied)
    before = TorchModel(net, input_shape=(5,)) if wrapped else net
    save_gpt2(before, tmp_path / "a")
    found = {name: value.shape for name, value in load_file(tmp_path / "a").items()}
    expected = {name: value.shape for name, value in published().items()}
    assert found == expected | ({} if tied else {"lm_head.weight": (WORDS, WIDTH)})
    after = load_gpt2(gpt2(**SIZES, tied=tied), tmp_path / "a")
    assert all(map(torch.equal, after.parameters(), net.parameters()))
    with pytest.raises(TypeError, match=r"expected one that gpt2\(\) has built"):
        save_gpt2(torch.nn.Linear(2, 2), tmp_path / "a")


@needs("safetensors")
def test_a_folder_has_the_sizes_too(tmp_path):
    net = gpt2(**SIZES, tied=True)
    save_gpt2_folder(TorchModel(net, input_shape=(5,)), tmp_path)
    after = load_gpt2_folder(tmp_path)
    tokens = torch.tensor(TOKENS)
    assert torch.equal(after(tokens), net(tokens))
    assert after[1].attn.heads == HEADS
    assert after[-2].weight is after[0].wte.weight
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong, message in (
        ({**config, "activation_function": "relu"}, "activation_function='relu'; expected a GPT-2"),
        ({**config, "n_layer": 3}, "expected the tensors of a GPT-2 of 3 layers"),
        ({"n_layer": 2}, "KeyError.'n_head'.; expected an object with n_layer, n_head"),
        ([], "expected an object with"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=message):
            load_gpt2_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such file; expected the config\.json"):
        load_gpt2_folder(tmp_path / "none")


def altered(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    weights = published() | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in weights.items() if value is not None}


@needs("safetensors")
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (altered(ln_f__bias=None), "missing ln_f.bias; expected the tensors of a GPT-2 of 2"),
        (altered(wte__weight=None), "missing lm_head.weight, wte.weight; expected"),
        (altered(h__2__ln_1__bias=np.ones(12)), "unknown h.2.ln_1.bias; expected"),
        (altered(wte=np.ones(1)), "unknown wte; expected"),
        (
            {name: value for name, value in published().items() if name[:3] != "h.1"},
            "missing h.1.attn.c_attn.bias, h.1.attn.c_attn.weight, h.1.attn.c_proj.bias and others",
        ),
        (
            altered(h__0__mlp__c_fc__weight=np.ones((48, 12), np.float32)),
            r"h.0.mlp.c_fc.weight is torch.float32 of shape \(48, 12\).*of shape \(12, 48\)",
        ),
        (altered(wpe__weight=np.ones((1024, 12))), r"wpe.weight is .*\(1024, 12\).*\(6, 12\)"),
        (altered(ln_f__bias=np.ones(12, np.int32)), "ln_f.bias is torch.int32.*expected floats"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, weights, message):
    save_file(weights, tmp_path / "some.safetensors")
    net = gpt2(**SIZES)
    before = [weight.clone() for weight in net.parameters()]
    with pytest.raises(ValueError, match=message) as caught:
        load_gpt2(net, tmp_path / "some.safetensors")
    assert str(tmp_path / "some.safetensors") in str(caught.value)
    assert all(map(torch.equal, net.parameters(), before))


@needs("safetensors")
@pytest.mark.parametrize(
    "contents", [b"", b"\x80\x02}.", struct.pack("<Q", 1 << 40) + b"{}", b"PK\x03\x04" * 9]
)
def test_damaged_files(tmp_path, contents):
    (tmp_path / "some.safetensors").write_bytes(contents)
    with pytest.raises(ValueError, match=r"some\.safetensors: .*expected a sound safetensors"):
        load_gpt2(gpt2(**SIZES), tmp_path / "some.safetensors")


@needs("safetensors")
def test_cut_files(tmp_path):
    save_file(published(), tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-1])
    with pytest.raises(ValueError, match="expected a sound safetensors"):
        load_gpt2(gpt2(**SIZES), tmp_path / "a")


@needs("safetensors")
def test_wrong_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file; expected a"):
        load_gpt2(gpt2(**SIZES), tmp_path / "nowhere")
    save_file(published(), tmp_path / "a")
    linear = torch.nn.Linear(2, 2)
    for net in (linear, torch.nn.Sequential(linear), torch.nn.Sequential()):
        with pytest.raises(TypeError, match=r"expected one that gpt2\(\) has built"):
            load_gpt2(net, tmp_path / "a")
    with pytest.raises(ValueError, match="rows of 7 tokens: expected up to 6"):
        gpt2(**SIZES)(torch.zeros(1, 7))


def test_initial_weights_are_drawn_as_the_paper_draws_them():
    net = gpt2(layers=8, heads=4, width=128, vocabulary=500, context=64)
    spread = {
        name: weight.std().item() for name, weight in net.named_parameters() if weight.ndim == 2
    }
    for name, found in spread.items():
        expected = 0.02 / (4 if name.endswith("c_proj.weight") else 1)  # 16 branches
        assert found == pytest.approx(expected, rel=0.05), name
    assert not any(w.any() for name, w in net.named_parameters() if name.endswith("bias"))
