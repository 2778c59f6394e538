"""The network: image features and patient metadata, concatenated in front of one linear head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.errors import UserError
from configs.schema import ModelConfig
from models.backbones import Backbone, create_backbone


class PixelNormalise(nn.Module):
    """uint8 [B, H, W, 3] in RGB -> float32 [B, 3, H, W], (pixel / 255 - mean) / std.

    The permuted NHWC batch is already channels_last; for a net that prefers NCHW it is copied while it is still
    uint8, a quarter of the memory traffic.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, channels_last: bool) -> None:
        super().__init__()
        centre, deviation = torch.tensor([mean, std], dtype=torch.float64)
        self.channels_last = channels_last
        self.register_buffer("scale", (1 / (255 * deviation)).float().view(1, 3, 1, 1))
        self.register_buffer("offset", (-centre / deviation).float().view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Normalise one batch; see the class for shapes and dtypes."""
        pixels = image.permute(0, 3, 1, 2)
        if not self.channels_last:
            pixels = pixels.contiguous()
        return torch.addcmul(self.offset, pixels.float(), self.scale)


class MultiSampleHead(nn.Module):
    """features [B, F] -> logits float32 [B, outputs]: the mean over `masks` dropout masks that share one linear layer.

    The layer is linear, so the mean of its logits is the logit of the mean mask: one pass instead of `masks`.
    Multi-sample dropout: Inoue, 2019, arXiv:1905.09788.
    """

    def __init__(self, features: int, outputs: int = 1, *, drop: float, masks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs)
        self.drop = drop
        self.masks = masks

    def draw_masks(self, features: Tensor) -> Tensor:
        """[masks, B, F]: zeros with probability `drop`, otherwise 1 / (1 - drop)."""
        return F.dropout(torch.ones_like(features).expand(self.masks, *features.shape), self.drop)

    def forward(self, features: Tensor) -> Tensor:
        """Score one batch, in float32 whatever autocast says: a few dot products per sample cost nothing."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            if self.training and self.drop > 0:
                features = features * self.draw_masks(features).mean(0)
            logits: Tensor = self.linear(features)
            return logits


class FusionModel(nn.Module):
    """image uint8 [B, H, W, 3] and meta float32 [B, M] -> logits float32 [B, outputs]; models/losses.py
    says what they mean.

    `backbone` or `meta_features` may be None: such a model ignores that input, but it is still called with
    both. `channels_last` is the faster layout of the backbone until `use_layout` sets the one to use.
    """

    def __init__(
        self, backbone: Backbone | None, config: ModelConfig, *, meta_features: int | None, outputs: int = 1
    ) -> None:
        super().__init__()
        self.channels_last = backbone is not None and backbone.channels_last
        self.normalise: PixelNormalise | None = None
        self.backbone: nn.Module | None = None
        if backbone is not None:
            self.normalise = PixelNormalise(backbone.mean, backbone.std, channels_last=backbone.channels_last)
            self.backbone = backbone.module
        self.meta = None if meta_features is None else _meta_branch(meta_features, config)
        features = (backbone.features if backbone else 0) + (0 if self.meta is None else config.meta_out)
        if features == 0:
            raise ValueError("a FusionModel without backbone and meta_features has no input")
        self.head = MultiSampleHead(features, outputs, drop=config.head_drop, masks=config.head_masks)

    def use_layout(self, *, channels_last: bool) -> None:
        """Set the memory layout of images and weights: torch.channels_last, or the default NCHW."""
        self.channels_last = channels_last
        if self.normalise is not None:
            self.normalise.channels_last = channels_last
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=layout)  # type: ignore[call-overload]

    def keep_activation_inputs(self) -> None:
        """Make no activation overwrite its input: where the derivative needs it (SiLU), autograd would copy it."""
        for module in self.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]

    def share_batch_statistics(self) -> None:
        """Make every batch norm a SyncBatchNorm, whose statistics are computed over all ranks."""
        from timm.layers.norm_act import convert_sync_batchnorm  # torch's own loses the activations in timm's norms

        convert_sync_batchnorm(self)  # type: ignore[no-untyped-call]

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        """Score one batch; see the class for shapes and dtypes."""
        features = []
        if self.normalise is not None and self.backbone is not None:
            features.append(self.backbone(self.normalise(image)))
        if self.meta is not None:
            features.append(self.meta(meta))
        logits: Tensor = self.head(torch.cat(features, dim=1))
        return logits


def _meta_branch(meta_features: int, config: ModelConfig) -> nn.Sequential:
    """meta float32 [B, meta_features] -> [B, config.meta_out]."""
    return nn.Sequential(
        nn.Linear(meta_features, config.meta_hidden),
        nn.BatchNorm1d(config.meta_hidden),
        nn.SiLU(),
        nn.Dropout(config.meta_drop),
        nn.Linear(config.meta_hidden, config.meta_out),
        nn.BatchNorm1d(config.meta_out),
        nn.SiLU(),
    )


def build_model(
    backbone: str, config: ModelConfig, *, size: int, meta_features: int, weights: str, outputs: int = 1
) -> FusionModel:
    """Build the network that `config.inputs` asks for, on the CPU, in training mode.

    `size` is the edge of the images in pixels, `meta_features` the length M of the meta vector, `outputs` the
    number of logits; `backbone` and `weights` are those of `create_backbone` (ignored for inputs=meta). Raises
    UserError as it does, and for an empty meta vector unless the model uses the image alone.
    """
    if config.inputs != "image" and meta_features < 1:
        raise UserError(f"model.inputs={config.inputs}, but the meta vector is empty: pass --model.inputs image")
    image = None if config.inputs == "meta" else create_backbone(backbone, size=size, weights=weights)
    meta = None if config.inputs == "image" else meta_features
    return FusionModel(image, config, meta_features=meta, outputs=outputs)
