"""The judge: staged tests, wrong solutions, and `--practice`."""

pytest_plugins = ["shared.testing.plugin"]
