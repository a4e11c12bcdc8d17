"""Turns plain pytest into rank-aware pytest, for tests/ and bench/ alike."""

pytest_plugins = ["tests.ranks.plugin", "bench.doors", "bench.devices"]
