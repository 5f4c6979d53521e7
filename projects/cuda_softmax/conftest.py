"""The judge: staged tests, wrong solutions, and `--practice`; devices and the compile gate of the CUDA projects."""

pytest_plugins = ["shared.testing.plugin", "shared.testing.devices"]
