"""Where the members look: Grad-CAM of the melanoma logit, drawn over the picture.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017. It shows
which regions move the logit, not why, and no more than a few coarse cells of them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from configs.errors import UserError
from configs.files import written_whole
from configs.infer import InferConfig
from engine.members import LoadedMember
from engine.predictor import Predictor
from loaders.decode import UNCHANGED, decode
from models.fusion import FusionModel
from models.torchvision_stub import define_missing_operators
from prep.images import BadImageError
from prep.metadata import meta_vectors
from prep.stage import read_image


def explain_files(config: InferConfig, predictor: Predictor, paths: Sequence[str | Path], facts: pd.DataFrame) -> None:
    """Write OUT/IMAGE_gradcam.png for each picture that can be used."""
    members = predictor.members
    device = next(members[0].network.parameters()).device
    for row, path in enumerate(paths):
        try:
            _, stored = read_image(path, predictor.encoding, config.max_pixels)
        except BadImageError:
            continue
        pixels = np.empty((predictor.encoding.size, predictor.encoding.size, 3), dtype=np.uint8)
        decode(memoryview(stored.jpeg), UNCHANGED, pixels)
        vectors = [meta_vectors(each.member.meta, facts.iloc[[row]]) for each in members]
        meta = [torch.from_numpy(vector).to(device) for vector in vectors]
        out = Path(config.out) / f"{Path(path).stem}_gradcam.png"
        write_overlay(out, pixels, heat_map(members, torch.from_numpy(pixels)[None].to(device), meta))
        print(f"{out}: where the members look (Grad-CAM)")


def heat_map(members: Sequence[LoadedMember], image: Tensor, meta: Sequence[Tensor]) -> npt.NDArray[np.float32]:
    """Mean Grad-CAM of the members, float32 [H, W] from 0 to 1; members that see no image are left out.

    image: uint8 [1, H, W, 3]; meta: each member's float32 [1, M]. Raises UserError if no member has a convolutional
    backbone.
    """
    define_missing_operators()
    from pytorch_grad_cam import GradCAM  # not at the top of the file: it imports torchvision

    maps = []
    for member, vector in zip(members, meta, strict=True):
        network, objective = member.network, member.objective
        if network.backbone is None or network.normalise is None:
            continue
        logit = objective.melanoma if objective.target == "diagnosis" else 0
        seen = _SeenFrom(network, vector)
        pixels = network.normalise(image)
        with torch.no_grad():
            if seen.features(pixels).ndim != 4:  # tokens of a transformer: no map
                continue
        with GradCAM(model=seen, target_layers=[seen.features]) as cam:
            maps.append(cam(input_tensor=pixels, targets=[lambda output, logit=logit: output[logit]])[0])
    if not maps:
        raise UserError("--explain needs a member with a convolutional backbone: none of these has one")
    mean: npt.NDArray[np.float32] = np.mean(maps, axis=0, dtype=np.float32)
    return mean


def write_overlay(path: Path, image: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> None:
    """Write the picture, uint8 [H, W, 3], with the heat map, float32 [H, W] from 0 to 1, over it, as a PNG."""
    from pytorch_grad_cam.utils.image import show_cam_on_image

    path.parent.mkdir(parents=True, exist_ok=True)
    overlay = show_cam_on_image(image.astype(np.float32) / 255, heat, use_rgb=True)
    with written_whole(path) as file:
        Image.fromarray(overlay).save(file, format="PNG")


class _SeenFrom(nn.Module):
    """A FusionModel as a function of its normalised image alone, its last feature map as a module of its own."""

    def __init__(self, network: FusionModel, meta: Tensor) -> None:
        super().__init__()
        self.network = network
        self.vector = meta
        self.features = _Features(network.backbone)

    def forward(self, pixels: Tensor) -> Tensor:
        network = self.network
        found = [network.backbone.forward_head(self.features(pixels))]  # type: ignore[union-attr,operator]
        if network.meta is not None:
            found.append(network.meta(self.vector))
        logits: Tensor = network.head(torch.cat(found, dim=1))
        return logits


class _Features(nn.Module):
    """The backbone up to its last feature map."""

    def __init__(self, backbone: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.backbone.forward_features(pixels)  # type: ignore[union-attr,operator]
        return found
