"""GPT-2 in files: the published weights, and those of a net that was trained here.

A folder has the sizes of the net in config.json, under their published names, and its weights in
model.safetensors. The format of the weights is safetensors, under the names of the published files:
wte.weight, h.0.attn.c_attn.weight, ..., ln_f.bias. Matrices of blocks are stored as (inputs,
outputs).
"""

import json
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Sequential

from nn.atomic_write import atomic_write
from nn.regular_file import open_regular
from nn.torch.gpt2 import gpt2, sizes_of
from nn.torch.model import TorchModel

Net = TypeVar("Net", Sequential, TorchModel)

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_LONGEST = 1 << 20  # bytes of config.json
_SIZES = {
    "layers": "n_layer",
    "heads": "n_head",
    "width": "n_embd",
    "vocabulary": "vocab_size",
    "context": "n_positions",
}
_FIXED = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
"""What config.json may say of a net of `gpt2` beside its sizes."""

_BUFFERS = ("attn.bias", "attn.masked_bias")  # causal masks, which some files carry along


def load_gpt2(net: Net, path: str | PathLike[str]) -> Net:
    """Fill a net of `gpt2` with published weights from a local file in the safetensors format.

    Tensors have the names under which the weights are published (wte.weight,
    h.0.attn.c_attn.weight, ..., ln_f.bias), with or without "transformer." before them. The file
    stores matrices of blocks as (inputs, outputs). The output gets a copy of wte.weight, unless the
    file has a lm_head.weight; a tied net takes only a file in which both are equal. The file does
    not say how many heads the net has; tell `gpt2`.

    Args:
        net: the net whose parameters are overwritten; they keep their dtype. Give the `TorchModel`
            itself and not its `module`, which on some devices is a copy.
        path: the file.

    Returns:
        net.

    Raises:
        TypeError: `net` was not built by `gpt2`.
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or its tensors are not exactly the net's tensors, of the
            same shapes and of floats. Nothing is changed then.
    """
    from safetensors import SafetensorError, safe_open

    if isinstance(net, TorchModel):
        load_gpt2(net.module, path)  # on some devices this is a copy
        net.fetch()
        return net
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a .safetensors file of GPT-2")
    wanted = _published(net)
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name.removeprefix("transformer."): name for name in file.keys()}  # noqa: SIM118
            if "lm_head.weight" not in stored and "wte.weight" in stored:
                stored["lm_head.weight"] = stored["wte.weight"]
            missing = sorted(wanted.keys() - stored)
            extra = sorted(name for name in stored.keys() - wanted if not name.endswith(_BUFFERS))
            if missing or extra:
                raise ValueError(
                    f"{path}: {_list('missing', missing)}{_list('unknown', extra)}"
                    f"expected the tensors of a GPT-2 of {len(net) - 4} layers"
                )
            values = {name: file.get_tensor(stored[name]) for name in wanted}
    except SafetensorError as error:
        raise ValueError(f"{path}: {error}; expected a sound safetensors file") from None
    for name, weight in wanted.items():
        value = values[name]
        if value.shape != weight.shape or not value.is_floating_point():
            raise ValueError(
                f"{path}: {name} is {value.dtype} of shape {tuple(value.shape)}; expected floats "
                f"of shape {tuple(weight.shape)}, as the net has layers, width, vocabulary and "
                "context"
            )
    if wanted["lm_head.weight"] is wanted["wte.weight"] and not torch.equal(
        values["lm_head.weight"], values["wte.weight"]
    ):
        raise ValueError(
            f"{path}: lm_head.weight differs from wte.weight, and the net is tied: expected "
            "gpt2(..., tied=False)"
        )
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(values[name])
    return net


def save_gpt2(net: Sequential | TorchModel, path: str | PathLike[str]) -> None:
    """Write the weights of a net of `gpt2` to a file that `load_gpt2` reads, whole or not at all.

    A tied net has no lm_head.weight in its file, as the published one. Values keep their dtype.

    Args:
        net: the net, or the `TorchModel` of it.
        path: the file; an older one is replaced.

    Raises:
        TypeError: `net` was not built by `gpt2`.
        OSError: the file cannot be written. An older one is as it was.
    """
    from safetensors.torch import save

    named = _published(net.module if isinstance(net, TorchModel) else net)
    if named["lm_head.weight"] is named["wte.weight"]:
        del named["lm_head.weight"]
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in named.items()}
    with atomic_write(Path(path)) as file:
        file.write(save(tensors, {"format": "pt"}))


def save_gpt2_folder(net: Sequential | TorchModel, folder: str | PathLike[str]) -> None:
    """Write config.json and model.safetensors to a folder that is there.

    Raises:
        TypeError, OSError: as `save_gpt2`.
    """
    whole: Any = net.module if isinstance(net, TorchModel) else net
    found = {_SIZES[name]: size for name, size in sizes_of(whole).items()}
    tied = whole[-2].weight is whole[0].wte.weight
    save_gpt2(net, Path(folder, _WEIGHTS))
    with atomic_write(Path(folder, _CONFIG)) as file:
        about = {"model_type": "gpt2", "tie_word_embeddings": tied}
        file.write(json.dumps(found | _FIXED | about, indent=1).encode())


def load_gpt2_folder(folder: str | PathLike[str]) -> Sequential:
    """Build the net that config.json describes, with the weights of model.safetensors.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: a file is damaged, the two do not fit, or it is another kind of net.
    """
    path = Path(folder, _CONFIG)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the config.json of a GPT-2")
    with open_regular(path) as file:
        text = file.read(_LONGEST)
    try:
        found = json.loads(text)
        sizes = {name: int(found[key]) for name, key in _SIZES.items()}
        tied = bool(found.get("tie_word_embeddings", True))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: {error!r}; expected an object with {', '.join(_SIZES.values())}"
        ) from None
    if other := [f"{k}={found[k]!r}" for k, v in _FIXED.items() if found.get(k, v) != v]:
        raise ValueError(
            f"{path}: {', '.join(other)}; expected a GPT-2 as it was published, with "
            f"{', '.join(f'{key}={value!r}' for key, value in _FIXED.items())}"
        )
    return load_gpt2(gpt2(**sizes, tied=tied), Path(folder, _WEIGHTS))


def _published(net: Sequential) -> dict[str, Tensor]:
    """Views of the parameters under their published names and in their published shapes."""
    sizes_of(net)  # refuses other nets
    tokens, *blocks, norm, head, _ = net
    parts = {"": tokens, "ln_f.": norm, "lm_head.": head}
    parts |= {f"h.{i}.": block for i, block in enumerate(blocks)}
    return {
        prefix + name: weight.T if prefix[:2] == "h." and weight.ndim == 2 else weight
        for prefix, part in parts.items()
        for name, weight in part.named_parameters()
    }


def _list(what: str, names: list[str]) -> str:
    """The first names for an error message; an empty string without names."""
    if not names:
        return ""
    return f"{what} {', '.join(names[:3])}{' and others' if len(names) > 3 else ''}; "
