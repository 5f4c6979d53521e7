"""The tests of the tools use the judge's own marks and reports."""

pytest_plugins = ["shared.testing.plugin"]
