"""How large a user's file may be: checked in its header before anything is read."""

LARGEST_VALUES = 1 << 28
"""342,000 images of 28x28, five times MNIST. A file that claims more is refused as damaged."""

LARGEST_BYTES = 1 << 32
"""Of a whole file as it lies on disk."""
