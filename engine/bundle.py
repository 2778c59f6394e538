"""`infer.py --export`: a judged ensemble as one folder that predicts without the run folder, and without this code.

NAME.onnx: a member from uint8 pixels to a probability; NAME.safetensors: its weights; ensemble.json and oof.parquet:
how members are combined, calibrated and judged; model_card.md: what all of it is; SHA256SUMS.
"""

import shutil
import warnings
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from configs.errors import UserError
from configs.infer import InferConfig
from configs.schema import MetaKind
from engine.card import model_card
from engine.judging import OOF, write_record
from engine.predictor import SUMS, open_predictor
from engine.tables import write_table
from models.losses import Objective
from prep.files import file_sha256
from prep.metadata import FEATURES

CARD = "model_card.md"
_REMEDY = "install them with: pip install onnx onnxscript, in the versions of pyproject.toml"


def export_bundle(config: InferConfig) -> None:
    """Write the bundle of the ensemble in --out to --export. Raises UserError if that folder has other files."""
    assert config.export is not None
    out = Path(config.export)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--export {out} is not empty: choose another folder, or remove it")
    predictor = open_predictor(config, torch.device("cpu"))
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for loaded in predictor.members:
        member, network = loaded.member, loaded.network
        weights = {name: value.contiguous() for name, value in network.state_dict().items()}
        (partial / f"{member.name}.safetensors").write_bytes(save(weights))
        onnx = partial / f"{member.name}.onnx"
        export_onnx(network, loaded.objective, size=member.size, meta=member.meta, path=onnx)
        print(f"{member.name}: exported")
    write_table(predictor.oof.drop(columns=["key", "group"], errors="ignore"), partial / OOF)
    write_record(predictor.record, partial)
    (partial / CARD).write_text(model_card(predictor))
    sums = [f"{file_sha256(path)}  {path.name}" for path in sorted(partial.iterdir())]
    (partial / SUMS).write_text("\n".join(sums) + "\n")
    if out.exists():
        out.rmdir()
    partial.rename(out)
    print(f"{out}: {len(predictor.members)} members; predict with python infer.py --bundle {out} --image FILE")


class Served(nn.Module):
    """image uint8 [B, H, W, 3] and meta float32 [B, M] -> the probability of melanoma, float32 [B], as stored."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        """Score one batch; see the class for shapes and dtypes."""
        logits = self.network(image, meta)
        if self.objective.target == "diagnosis":
            classes: Tensor = logits.softmax(1)
            return classes[:, self.objective.melanoma]
        return torch.sigmoid(logits[:, 0])


def export_onnx(network: nn.Module, objective: Objective, *, size: int, meta: MetaKind, path: Path) -> None:
    """Write a member as ONNX: inputs image and meta, output probability as in `Served`, for any batch size."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--export needs onnx and onnxscript ({error}): {_REMEDY}") from error
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8), torch.zeros(2, len(FEATURES[meta]))
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(action="ignore"):  # of the exporter about its own parts
        program = torch.onnx.export(
            Served(network, objective).eval(),
            example,
            dynamo=True,
            dynamic_shapes={"image": {0: batch}, "meta": {0: batch}},
            input_names=["image", "meta"],
            output_names=["probability"],
            verbose=False,
        )
    assert program is not None
    program.save(path, include_initializers=True, external_data=False)
