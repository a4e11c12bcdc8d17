"""The nets that peers of another kind than torch train: those that `nn.mlp` makes with ReLU."""

from nn import Model
from nn.layers import Linear, ReLU
from nn.loss import CrossEntropy


def linears_of(model: Model) -> list[Linear]:
    """Return the Linear layers of a fully connected net, first to last.

    Raises:
        ValueError: there are other layers than Linear with ReLU between them, or the loss is
            another one than plain cross-entropy.
    """
    linears = [layer for layer in model.layers[::2] if isinstance(layer, Linear)]
    expected = [kind for _ in linears for kind in (Linear, ReLU)][:-1]
    if [type(layer) for layer in model.layers] != expected:
        raise ValueError(f"{model}: expected Linear layers with ReLU between them, as of nn.mlp")
    loss = model.loss
    if type(loss) is not CrossEntropy or not loss.counts_by_shape or loss.label_smoothing:
        raise ValueError(f"a net with the loss {loss}: expected CrossEntropy()")
    return linears
