import pytest
import torch

from configs.errors import UserError
from configs.schema import Inputs, ModelConfig
from models.fusion import FusionModel, MultiSampleHead, PixelNormalise, build_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tiny_model(inputs: Inputs = "both", meta_features: int = 11) -> FusionModel:
    torch.manual_seed(0)
    config = ModelConfig(inputs=inputs)
    return build_model("tiny", config, size=32, meta_features=meta_features, weights="none")


def batch(samples: int = 4, meta_features: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (samples, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return image, torch.randn(samples, meta_features, generator=generator)


def test_reference_model_has_the_stated_number_of_parameters() -> None:
    model = build_model("efficientnet_b1", ModelConfig(), size=64, meta_features=11, weights="none")
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_587_681


@pytest.mark.parametrize("inputs", ["both", "image", "meta"])
def test_logits_are_float32_one_per_sample_and_reach_every_parameter(inputs: Inputs) -> None:
    model = tiny_model(inputs)
    logit = model(*batch())
    logit.sum().backward()
    assert (logit.shape, logit.dtype) == ((4, 1), torch.float32)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_image_model_does_not_read_meta() -> None:
    model = tiny_model("image").eval()
    image, meta = batch()
    assert model.meta is None
    assert torch.equal(model(image, meta), model(image, meta + 1))


def test_meta_model_builds_no_backbone_and_does_not_read_the_image() -> None:
    config = ModelConfig(inputs="meta")
    model = build_model("no such net", config, size=32, meta_features=11, weights="auto").eval()
    image, meta = batch()
    assert model.backbone is None
    assert not model.channels_last
    assert torch.equal(model(image, meta), model(255 - image, meta))


def test_empty_meta_vector_is_refused_unless_the_model_reads_images_only() -> None:
    with pytest.raises(UserError, match=r"--model\.inputs image"):
        tiny_model("both", meta_features=0)
    assert tiny_model("image", meta_features=0).meta is None


def test_autocast_leaves_the_logits_in_float32() -> None:
    model = tiny_model().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logit = model(*batch())
    assert logit.dtype == torch.float32
    torch.testing.assert_close(logit, model(*batch()), atol=0.05, rtol=0.05)


def test_evaluation_scores_a_sample_alone_as_in_its_batch() -> None:
    model = tiny_model().eval()
    image, meta = batch()
    torch.testing.assert_close(model(image[:1], meta[:1]), model(image, meta)[:1])


@pytest.mark.parametrize("channels_last", [True, False])
def test_normalise_matches_the_formula_and_keeps_the_layout(channels_last: bool) -> None:
    image, _ = batch()
    pixels = PixelNormalise(MEAN, STD, channels_last=channels_last)(image)
    channel = [(image[..., c].double() / 255 - MEAN[c]) / STD[c] for c in range(3)]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.testing.assert_close(pixels.double(), torch.stack(channel, dim=1), atol=1e-6, rtol=1e-6)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous(memory_format=layout)


def test_one_pass_head_equals_the_loop_over_its_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    head = MultiSampleHead(64, drop=0.5, masks=5)
    features = torch.randn(8, 64)
    masks = head.draw_masks(features)
    monkeypatch.setattr(head, "draw_masks", lambda _: masks)
    loop = torch.stack([head.linear(features * mask) for mask in masks]).mean(0)
    torch.testing.assert_close(head(features), loop)


def test_masks_differ_and_keep_the_expected_value() -> None:
    masks = MultiSampleHead(1000, drop=0.5, masks=5).draw_masks(torch.randn(40, 1000))
    assert masks.shape == (5, 40, 1000)
    assert set(masks.unique().tolist()) == {0.0, 2.0}
    assert abs(masks.mean().item() - 1) < 0.02
    assert not torch.equal(masks[0], masks[1])


def test_head_does_not_drop_in_evaluation() -> None:
    head = MultiSampleHead(64, drop=0.5, masks=5).eval()
    features = torch.randn(8, 64)
    assert torch.equal(head(features), head.linear(features))
