"""What the repository reads about itself."""

import pytest

from shared.projects import name_of


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("torch", "torch"),
        ("torch>=2.13", "torch"),
        ("triton>=3.6,<3.8", "triton"),
        ("nvidia-curand==10.4.5.25 ; sys_platform == 'linux'", "nvidia-curand"),
        ("nox[uv] ~= 2025.5", "nox"),
    ],
)
def test_the_name_in_a_requirement(requirement, name):
    """A bound, an extra and a marker are not part of it."""
    assert name_of(requirement) == name
