"""The judge: options, fixtures and the tests of the wrong solutions."""

pytest_plugins = ["shared.testing.plugin"]
