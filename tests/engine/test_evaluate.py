from contextlib import nullcontext

import numpy as np
import torch

from engine.distributed import joined_ranks
from engine.evaluate import predict
from loaders.batch import Batch
from loaders.symmetry import view_of
from models.losses import Objective

ONE_LOGIT = Objective(target="melanoma", auxiliary_weight=0.0, classes=9, melanoma=4)


class Corner(torch.nn.Module):
    """The logit is the red of the top left pixel, which differs between views."""

    def forward(self, image: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return image[:, 0, 0, :1].float() / 100


def batch(index: list[int], valid: list[bool]) -> Batch:
    rows = torch.tensor(index)
    image = (rows[:, None, None, None] * 10 + torch.arange(4).reshape(1, 2, 2, 1)).expand(-1, 2, 2, 3).to(torch.uint8)
    zeros = torch.zeros(len(index))
    return Batch(
        epoch=0,
        step=0,
        image=image,
        meta=zeros[:, None],
        target=zeros,
        diagnosis=rows,
        index=rows,
        valid=torch.tensor(valid),
    )


def test_padding_is_left_out_and_rows_are_sorted() -> None:
    batches = [batch([4, 1], [True, True]), batch([3, 4], [True, False])]
    with joined_ranks("cpu") as ranks:
        predictions = predict(Corner(), ONE_LOGIT, batches, ranks, autocast=nullcontext)
    np.testing.assert_array_equal(predictions.index, [1, 3, 4])
    np.testing.assert_allclose(predictions.probability, 1 / (1 + np.exp(-np.array([10, 30, 40]) / 100)))


def test_views_are_averaged_as_probabilities() -> None:
    with joined_ranks("cpu") as ranks:
        predictions = predict(Corner(), ONE_LOGIT, [batch([2], [True])], ranks, autocast=nullcontext, views=4)
    corners = np.array([20, 21, 22, 23]) / 100
    np.testing.assert_allclose(predictions.probability, [(1 / (1 + np.exp(-corners))).mean()])


def test_the_eight_views_are_the_eight_symmetries_of_a_square() -> None:
    image = torch.arange(3 * 3 * 3, dtype=torch.uint8).reshape(1, 3, 3, 3)
    views = {view_of(image, view).contiguous().numpy().tobytes() for view in range(8)}
    pixels = image[0].numpy()
    flipped = pixels[:, ::-1]
    assert views == {np.rot90(side, turns).tobytes() for side in (pixels, flipped) for turns in range(4)}
