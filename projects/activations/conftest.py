"""Tests, wrong solutions and --practice: everything comes from the shared plugin."""

pytest_plugins = ["shared.testing.plugin"]
