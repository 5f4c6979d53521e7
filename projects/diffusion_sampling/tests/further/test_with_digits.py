"""The committed U-Net on real digits: a sampler and guidance that are right make good ones of it.

The network is the reference's own file with the committed weights, whatever is being graded: it is a tool here.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import diffusion_sampling
import guidance

HERE = Path(__file__).resolve().parents[2]
KARRAS = (
    20.0 ** (1 / 7) + torch.linspace(0, 1, 18, dtype=torch.float64) * (0.005 ** (1 / 7) - 20.0 ** (1 / 7))
) ** 7
OWN = ("diffusion_sampling", "preconditioning", "schedules", "unet", "train", "evaluate")
GRID = torch.cat([KARRAS, torch.zeros(1, dtype=torch.float64)])


def reference(name):
    """Import a module of the reference under another name, with its siblings."""
    own = {module: sys.modules.get(module) for module in OWN}
    path = list(sys.path)
    try:
        sys.path.insert(0, str(HERE))
        for module in own:
            sys.modules.pop(module, None)
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        if name == "evaluate":
            module.load_split = __import__("train").load_split
            module.split = module.load_split()
        return module
    finally:
        sys.path[:] = path
        for module, before in own.items():
            sys.modules.pop(module, None)
            if before is not None:
                sys.modules[module] = before


@pytest.fixture(scope="module")
def network():
    """The committed denoiser D(x, sigma, labels)."""
    training, preconditioning = reference("train"), reference("preconditioning")
    model, sigma_data = training.load_weights(HERE / "weights" / "digits.safetensors")
    return preconditioning.precondition(model, sigma_data=sigma_data)


@pytest.fixture(scope="module")
def judge():
    """The reference's evaluation with the split it needs."""
    evaluation = reference("evaluate")
    classifier = evaluation.load_judge()
    split = evaluation.split

    def frechet(images):
        return evaluation.frechet_distance(
            classifier.features(images), classifier.features(split.train_images)
        )

    return classifier, split, frechet


def draw(network, labels, w):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(labels), 1, 8, 8, generator=generator)
    denoiser = guidance.guided_labels(network, labels, w, no_class=10)
    return diffusion_sampling.sample(diffusion_sampling.heun, denoiser, noise, GRID)


@pytest.mark.grades("heun", "sample", "guided_labels")
def test_digits_of_the_class_asked_for(network, judge):
    """w = 1, 18 steps of Heun: at least 95 % are read as the class asked for; Fréchet within 1.5 real floors."""
    classifier, split, frechet = judge
    images = draw(network, split.held_labels, 1)
    accuracy = classifier.accuracy(images, split.held_labels)
    assert accuracy >= 0.95, f"{accuracy:.1%} of the generated digits are read as the class asked for"
    floor = frechet(split.held_images)
    distance = frechet(images)
    assert distance <= 1.5 * floor, f"Fréchet distance {distance:.2f}, of the held-out digits {floor:.2f}"


@pytest.mark.grades("heun", "sample", "guided_labels")
def test_digits_of_no_class(network, judge):
    """w = 0 ignores the class asked for: about a tenth agree by chance."""
    classifier, split, _ = judge
    images = draw(network, split.held_labels[:200], 0)
    accuracy = classifier.accuracy(images, split.held_labels[:200])
    assert 0.02 < accuracy < 0.2, (
        f"w = 0: {accuracy:.1%} are read as the class asked for, expected about 10 %"
    )


@pytest.mark.grades
def test_committed_weights():
    """Small files: half precision, under 1.5 MB together."""
    size = sum(path.stat().st_size for path in (HERE / "weights").glob("*.safetensors"))
    assert size < 1.5e6, f"the committed weights take {size / 1e6:.2f} MB"
