"""Turns plain pytest into rank-aware pytest, for tests/ and bench/ alike."""

pytest_plugins = ["tests.ranks.plugin", "bench.user_code.plugin", "bench.user_code.devices"]
