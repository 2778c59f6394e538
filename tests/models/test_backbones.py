import importlib
import logging
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from configs.errors import UserError
from models import torchvision_stub
from models.backbones import Backbone, create_backbone, timm_name

IMAGENET_MEAN = (0.485, 0.456, 0.406)


def tiny() -> Backbone:
    return create_backbone("tiny", size=64, weights="none")


def features_of(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return backbone.module.eval()(images)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    ("name", "features", "channels_last", "mean"),
    [
        ("efficientnet_b1", 1280, True, IMAGENET_MEAN),
        ("efficientnet_b3", 1536, True, IMAGENET_MEAN),
        ("efficientnet_b4", 1792, True, IMAGENET_MEAN),
        ("resnest50", 2048, False, IMAGENET_MEAN),
        ("tiny", 256, True, IMAGENET_MEAN),
        # timm calls 288 its num_features, and its pooled features are 1024.
        ("mobilenetv3_small_050", 1024, True, IMAGENET_MEAN),
        ("vit_tiny_patch16_224", 192, False, (0.5, 0.5, 0.5)),
    ],
)
def test_backbone_is_what_it_states(
    name: str, features: int, channels_last: bool, mean: tuple[float, float, float]
) -> None:
    backbone = create_backbone(name, size=64, weights="none")
    pooled = features_of(backbone, torch.randn(2, 3, 64, 64))
    assert pooled.shape == (2, features)
    assert (backbone.features, backbone.channels_last, backbone.mean) == (features, channels_last, mean)


@pytest.mark.parametrize("name", ["efficientnet_b1x", "tf_efficientnet_b1.ns_jft"])
def test_unknown_name_is_answered_with_the_short_names_and_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match=r"resnest50.*nearest: .*efficientnet_b1"):
        create_backbone(name, size=64, weights="none")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k"),
        ("vit_tiny_patch16_224_in21k", "vit_tiny_patch16_224.augreg_in21k"),
    ],
)
def test_a_name_of_an_earlier_timm_is_the_same_model_today(old: str, new: str) -> None:
    assert timm_name(old) == timm_name(new) == new


@pytest.mark.usefixtures("empty_cache", "no_network")
def test_auto_without_network_says_which_weights_and_what_to_do_without_retrying(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(UserError, match=r"test_efficientnet\.r160_in1k.*--weights FILE.*--weights none"),
    ):
        create_backbone("tiny", size=64, weights="auto")
    assert "Retrying" not in caplog.text


@pytest.mark.usefixtures("empty_cache")
def test_auto_reports_a_download_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match=r"could not be fetched \(LocalEntryNotFoundError"):
        create_backbone("tiny", size=64, weights="auto")


@pytest.mark.usefixtures("no_network")
def test_auto_reads_the_cache_without_network(empty_cache: Path) -> None:
    cached = tiny()
    repository = empty_cache / "models--timm--test_efficientnet.r160_in1k"
    revision = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots" / revision).mkdir(parents=True)
    save_file(cached.module.state_dict(), repository / "snapshots" / revision / "model.safetensors")
    images = torch.randn(2, 3, 64, 64)
    loaded = create_backbone("tiny", size=64, weights="auto")
    assert torch.equal(features_of(loaded, images), features_of(cached, images))


def test_auto_refuses_a_model_without_pretrained_weights() -> None:
    with pytest.raises(UserError, match=r"no pretrained weights for efficientnet_b6.*--weights none"):
        create_backbone("efficientnet_b6", size=64, weights="auto")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_file_is_loaded(tmp_path: Path, suffix: str) -> None:
    saved = tiny()
    path = tmp_path / f"tiny{suffix}"
    if suffix == ".pth":
        torch.save(saved.module.state_dict(), path)
    else:
        save_file(saved.module.state_dict(), path)
    images = torch.randn(2, 3, 64, 64)
    loaded = create_backbone("tiny", size=64, weights=str(path))
    assert torch.equal(features_of(loaded, images), features_of(saved, images))


def test_classifier_of_a_full_checkpoint_is_ignored(tmp_path: Path) -> None:
    state = tiny().module.state_dict()
    state |= {"classifier.weight": torch.zeros(1000, 256), "classifier.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "full.pth")
    loaded = create_backbone("tiny", size=64, weights=str(tmp_path / "full.pth"))
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.module.state_dict().items())


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = tiny().module.state_dict()
    del state["bn1.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["conv_stem.weight"] = torch.zeros(1, 3, 3, 3)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"does not fit backbone tiny") as caught:
        create_backbone("tiny", size=64, weights=str(tmp_path / "other.pth"))
    for part in ("missing bn1.weight", "unexpected extra.weight", "shape of conv_stem.weight is [1, 3, 3, 3]"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("filename", "content", "message"),
    [
        ("absent.pth", None, "does not exist"),
        ("broken.pth", b"not a checkpoint", "cannot be read"),
        ("broken.safetensors", b"not a checkpoint", "cannot be read"),
        ("weights.npz", b"", "give auto, none"),
    ],
)
def test_unusable_weights_file_is_named(tmp_path: Path, filename: str, content: bytes | None, message: str) -> None:
    path = tmp_path / filename
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        create_backbone("tiny", size=64, weights=str(path))
    assert filename in str(caught.value)


def test_weights_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "names": ["conv_stem.weight"]}, tmp_path / "run.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        create_backbone("tiny", size=64, weights=str(tmp_path / "run.pth"))


def test_operators_are_declared_once_and_stay() -> None:
    library = torchvision_stub.define_missing_operators()
    tiny()
    assert hasattr(torch.ops.torchvision, "nms")
    assert torchvision_stub.define_missing_operators() is library


def test_a_torchvision_that_can_be_imported_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def define(*_: object) -> None:
        pytest.fail("defined an operator that exists")

    torchvision_stub.define_missing_operators()
    importlib.import_module("torchvision")
    monkeypatch.setattr(torch.library, "Library", define)
    assert torchvision_stub.define_missing_operators.__wrapped__() is None
