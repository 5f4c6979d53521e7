"""The judge's pytest plugin: --practice, right answers and mistakes, the NOT RUN report."""

pytest_plugins = ["shared.testing.plugin"]
