"""Bytes of a step, against what its shapes say by hand."""

import torch
from torch import nn

from benchmarks.traffic import Traffic, attainable

BATCH, EDGE, IN, OUT = 4, 8, 3, 16
REACHED = {"memory_gb_per_s": {"median": 10.0, "low": 9.0, "high": 11.0}}


def test_a_convolution_a_norm_and_an_activation_move_what_their_shapes_say() -> None:
    network = nn.Sequential(nn.Conv2d(IN, OUT, 1, bias=False), nn.BatchNorm2d(OUT), nn.SiLU())
    picture = torch.randn(BATCH, IN, EDGE, EDGE)
    with torch.no_grad(), Traffic() as found:
        network(picture)
    pixels, features = 4 * BATCH * EDGE**2 * IN, 4 * BATCH * EDGE**2 * OUT  # bytes of float32
    vectors = 4 * OUT
    convolution = pixels + 4 * IN * OUT + features
    norm = 3 * features + 6 * vectors  # twice in, once out; weight, bias, mean and variance in, two statistics out
    counter = 2 * 8  # of the norm's batches
    activation = 2 * features
    assert found.ideal == convolution
    assert found.fused == convolution + norm
    assert found.eager - (convolution + norm + activation) in range(counter + 5)


def test_backward_reads_a_gradient_for_each_of_its_kernels() -> None:
    convolution = nn.Conv2d(IN, OUT, 1, bias=False)
    picture = torch.randn(BATCH, IN, EDGE, EDGE, requires_grad=True)
    output = convolution(picture)
    gradient = torch.ones_like(output)
    with Traffic() as found:
        output.backward(gradient)
    pixels, features, weights = 4 * picture.numel(), 4 * output.numel(), 4 * IN * OUT
    assert found.ideal == 2 * features + 2 * pixels + 2 * weights


def test_twice_the_pictures_move_twice_the_bytes_and_memory_sets_the_rate() -> None:
    network = nn.Sequential(nn.Conv2d(IN, OUT, 3), nn.SiLU())

    def found(images: int) -> dict[str, dict[str, float]]:
        picture = torch.randn(images, IN, 64, 64)
        return attainable(lambda: network(picture).mean().backward(), images, REACHED)

    few, many = found(4), found(8)
    for way in ("eager", "fused", "ideal"):
        assert few["mb_per_image"][way] == many["mb_per_image"][way]
        mean = few["mb_per_image"][way] * few["images_per_s"][way] / 1000  # GB/s
        assert abs(mean - 10.0) < 1.0
    assert few["mb_per_image"]["eager"] > few["mb_per_image"]["fused"] >= few["mb_per_image"]["ideal"]
