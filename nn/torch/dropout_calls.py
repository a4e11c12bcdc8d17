"""Sees every dropout of torch that runs: modules, functions, and inside of other modules."""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class DropoutCalls(TorchFunctionMode):
    """While a thread is in this context, `kept` says which units a dropout in training keeps.

    It holds for dropout of units and of whole channels, alpha dropout, dropout of the weights of
    attention (`scaled_dot_product_attention`, `MultiheadAttention`), and dropout between the layers
    of recurrent nets. Attention with dropout then computes its weights one by one, without a fused
    kernel. Dropout in compiled code (torch.jit) is not seen.
    """

    def kept(self, x: Tensor, p: float, units: Sequence[int]) -> Tensor | None:
        """Which units are kept, boolean, (len(x), *units), broadcast to x; None for all of them.

        Args:
            x: the input of dropout, with the batch's rows in its first dimension.
            p: probability of dropping a unit, 0 < p < 1.
            units: shape of what is drawn for each x[i].
        """
        raise NotImplementedError

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _OPENED:
            with self:  # torch leaves the context while this method runs
                return _OPENED[func](*args, **kwargs)
        if func in _DROPOUTS:
            return self._drop(func, *args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func in _RECURRENT:
            return self._recurrent(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _drop(self, func: Callable[..., Any], input: Tensor, p: Any, train: bool) -> Tensor:
        """Compute what `func` does, one of `_DROPOUTS`, with the units that `kept` chooses.

        Alpha dropout: Klambauer et al., "Self-normalizing neural networks" (2017), section "New
        dropout technique", with the scale and the shift of torch.
        """
        p = float(p)
        if not train or not 0 < p < 1:  # nothing to choose, or a number that torch refuses
            return func(input, p, train)
        channels, alpha = _DROPOUTS[func]
        units = (*input.shape[1:2], *[1] * (input.ndim - 2)) if channels else input.shape[1:]
        kept = self.kept(input, p, units)
        if kept is None:
            return input
        noise = kept.to(input.dtype)
        in_place = func.__name__.endswith("_")
        if not alpha:
            noise.div_(1 - p)
            return input.mul_(noise) if in_place else input * noise
        scale = ((_ALPHA**2 * p + 1) * (1 - p)) ** -0.5
        shift = (noise - 1) * (_ALPHA * scale) + _ALPHA * scale * p
        noise.mul_(scale)
        return input.mul_(noise).add_(shift) if in_place else input * noise + shift

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> Tensor:
        """`scaled_dot_product_attention`, as torch's documentation writes it."""
        if not dropout_p:
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, **more
            )
        scale = more.get("scale")
        if more.get("enable_gqa"):
            key, value = (
                each.repeat_interleave(query.size(-3) // each.size(-3), -3) for each in (key, value)
            )
        scores = (
            query @ key.transpose(-2, -1) * (query.size(-1) ** -0.5 if scale is None else scale)
        )
        if is_causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~seen, -torch.inf)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        # A query that sees no key has weights of 0, not of 0 / 0.
        blind = (scores == -torch.inf).all(-1, keepdim=True)
        weights = scores.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)
        return self._drop(torch.dropout, weights, dropout_p, True) @ value

    def _recurrent(self, func: Callable[..., Any], *args: Any) -> tuple[Tensor, ...]:
        """One layer of a recurrent net after the other, with dropout between them.

        Raises:
            ValueError: the sequences are packed, so that their rows are not apart.
        """
        packed = not isinstance(args[3], bool)
        layers, p, train = args[5:8] if packed else args[4:7]
        if not p or not train or layers == 1:
            return func(*args)
        if packed:
            raise ValueError(
                f"{func.__name__} with dropout={p} of packed sequences, whose rows are not apart: "
                "expected dropout=0, or padded sequences"
            )
        x, states, weights, biases, *_, both, batch_first = args
        state = states if isinstance(states, (tuple, list)) else (states,)
        states_each = [each.chunk(layers) for each in state]
        each = len(weights) // layers
        ends = []
        for i in range(layers):
            if i:
                rows = x if batch_first else x.transpose(0, 1)
                rows = self._drop(torch.dropout, rows, p, True)
                x = rows if batch_first else rows.transpose(0, 1)
            begin = tuple(parts[i] for parts in states_each)
            x, *end = func(
                x,
                begin if isinstance(states, (tuple, list)) else begin[0],
                weights[i * each : (i + 1) * each],
                *(biases, 1, 0.0, train, both, batch_first),
            )
            ends.append(end)
        return x, *(torch.cat(parts) for parts in zip(*ends))


_ALPHA = 1.7580993408473766
"""Minus the limit of SELU: its scale times its alpha."""

_DROPOUTS = {
    torch.dropout: (False, False),
    torch.dropout_: (False, False),
    torch.feature_dropout: (True, False),
    torch.feature_dropout_: (True, False),
    torch.alpha_dropout: (False, True),
    torch.alpha_dropout_: (False, True),
    torch.feature_alpha_dropout: (True, True),
    torch.feature_alpha_dropout_: (True, True),
}
"""Function of (input, p, train) -> whether it drops whole channels, whether it is alpha dropout."""

_RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}


def _opened(function: Any) -> FunctionType:
    """A copy of a function of torch that runs in a context as it does outside of one.

    The function itself would hand the whole call to the context, and the context would not see the
    calls that it makes.
    """
    names = {name: lambda *_: False for name in function.__code__.co_names if "has_torch" in name}
    opened = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


_OPENED = {
    function: _opened(function)
    for function in (
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
        functional.multi_head_attention_forward,
        torch.autograd.grad,  # computes the checkpointed parts of a module again
    )
}
