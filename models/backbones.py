"""Image backbones from timm: our short names, pretrained or given weights, layout and normalisation of each."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from configs.errors import UserError
from models.torchvision_stub import define_missing_operators
from models.weights import cause, misfits, read_weights, unprefixed

SHORT_NAMES = {
    "efficientnet_b1": "tf_efficientnet_b1.ns_jft_in1k",
    "efficientnet_b3": "tf_efficientnet_b3.ns_jft_in1k",
    "efficientnet_b4": "tf_efficientnet_b4.ns_jft_in1k",
    "resnest50": "resnest50d.in1k",
    "tiny": "test_efficientnet.r160_in1k",
}
"""Short name -> timm name. It takes precedence over timm's own: timm's efficientnet_b1 is efficientnet_b1.ft_in1k."""

_REMEDY = "pass --weights FILE (.pth or .safetensors) or --weights none"
_PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class Backbone:
    """An image network without its classifier, and what a caller needs to know to use it."""

    module: nn.Module
    """Normalised float images [B, 3, size, size] -> pooled features [B, features]."""
    features: int
    """Length of the pooled features."""
    mean: tuple[float, float, float]
    """Per-channel mean of the images it was trained with, in RGB order, with pixels in 0 to 1."""
    std: tuple[float, float, float]
    """Per-channel standard deviation, likewise."""
    channels_last: bool
    """Whether it runs faster in torch.channels_last than in the default NCHW layout."""


def create_backbone(name: str, *, size: int, weights: str) -> Backbone:
    """Build the backbone `name` (a short name or a timm name) for images of size x size pixels.

    `weights` is auto for timm's pretrained weights, none for random ones, or a .pth or .safetensors file with
    a state dict of the backbone; in a file, the classifier that timm's pretrained_cfg names is ignored.
    Raises UserError for an unknown name, for pretrained weights that do not exist or cannot be fetched, and
    for a file that is missing, unreadable, not finite or does not fit.
    """
    define_missing_operators()
    import timm  # not at the top of the file: it takes seconds, and needs the operators

    full_name = timm_name(name)
    pretrained: Any = timm.models.get_pretrained_cfg(full_name)
    # A ViT's position embedding fixes the image size; a convolutional net accepts any.
    options: dict[str, Any] = {"num_classes": 0} | ({"img_size": size} if pretrained.fixed_input_size else {})
    if weights == "auto":
        module = _create_pretrained(full_name, pretrained, options)
    else:
        module = timm.create_model(full_name, pretrained=False, **options)
        if weights != "none":
            _load_weights(module, Path(weights), pretrained.classifier, name)
    return Backbone(
        module=module,
        features=module.head_hidden_size,
        mean=tuple(pretrained.mean),
        std=tuple(pretrained.std),
        # Faster for convolutional nets other than ResNeSt; not for ViTs, which have a fixed input size.
        channels_last=not (pretrained.fixed_input_size or full_name.startswith("resnest")),
    )


def takes_one_size(name: str) -> bool:
    """Whether the backbone `name` takes images of the size alone that it is built for, as a ViT does."""
    full_name = timm_name(name)  # defines the operators that timm needs
    import timm

    pretrained: Any = timm.models.get_pretrained_cfg(full_name)
    return bool(pretrained.fixed_input_size)


def timm_name(name: str) -> str:
    """What timm calls the backbone `name` today: a short name, or a timm name, also one of earlier versions, such as
    tf_efficientnet_b0_ns. Raises UserError for an unknown name."""
    define_missing_operators()
    import timm

    found = SHORT_NAMES.get(name) or timm.models.get_deprecated_models().get(name) or name
    try:
        known = timm.models.get_pretrained_cfg(found) is not None
    except RuntimeError:  # the architecture exists, the tag after the dot does not
        known = False
    if not known:
        names = [*SHORT_NAMES, *timm.list_models(), *timm.list_models(pretrained=True)]
        nearest = ", ".join(difflib.get_close_matches(name, dict.fromkeys(names), n=3)) or "none"
        raise UserError(
            f"backbone={name!r} is unknown: give one of {', '.join(SHORT_NAMES)} or a timm {timm.__version__} "
            f"name (nearest: {nearest})"
        )
    return found


def _create_pretrained(timm_name: str, pretrained: Any, options: dict[str, Any]) -> Any:
    """The model with timm's pretrained weights, from the local cache or the network."""
    import timm

    if not pretrained.has_weights:
        raise UserError(f"timm has no pretrained weights for {timm_name}: {_REMEDY}")
    if pretrained.hf_hub_id:
        _fetch_into_cache(timm_name, pretrained.hf_hub_id, pretrained.hf_hub_filename or "model.safetensors")
    try:
        return timm.create_model(timm_name, pretrained=True, **options)
    except OSError as error:
        raise _not_fetched(timm_name, error) from error


def _fetch_into_cache(timm_name: str, repository: str, filename: str) -> None:
    """Download a weights file to the Hugging Face cache; raises UserError within seconds if there is no network.

    timm would download it too, but would report a missing network only after two rounds of five retries each.
    So a single request without retries goes first, and none at all if the cache holds the file.
    """
    import huggingface_hub as hub

    if isinstance(hub.try_to_load_from_cache(repository, filename), str):
        return
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, filename), timeout=_PROBE_SECONDS)
        hub.hf_hub_download(repository, filename)
    except hub.errors.RemoteEntryNotFoundError:
        return  # the repository has its weights under another name, which timm finds
    # huggingface_hub lets its HTTP client's exceptions through, and the client depends on its version.
    except Exception as error:
        raise _not_fetched(timm_name, error) from error


def _not_fetched(timm_name: str, error: Exception) -> UserError:
    return UserError(f"pretrained weights of {timm_name} could not be fetched ({cause(error)}): {_REMEDY}")


def _load_weights(module: nn.Module, path: Path, classifier: str | tuple[str, ...], name: str) -> None:
    """Load a state dict file into `module`, strictly except for the classifier, which `module` does not have, and for
    the batch counters of batch norms."""
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    own = module.state_dict()
    state = unprefixed(read_weights(path), own)
    given = {key: tensor for key, tensor in state.items() if key in own or key.rpartition(".")[0] not in heads}
    wrong = misfits(own, given, counters=False)
    if wrong:
        raise UserError(
            f"{path} does not fit backbone {name}: of its {len(given)} names {len(given.keys() & own.keys())} are "
            f"the backbone's; {wrong}; pass the --backbone it was trained with"
        )
    module.load_state_dict({**own, **given})
