"""The judge's pytest plugin: --practice, tests/wrong/, the NOT RUN report."""

pytest_plugins = ["shared.testing.plugin"]
