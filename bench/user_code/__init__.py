"""Models, strategies and data sets from a user's own files: `--model`, `--strategy`, `--data`."""


class UserCodeError(ValueError):
    """A user-supplied file is unusable; the message says how to fix it."""
