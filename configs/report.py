"""Every setting of `python -m report`: a frozen dataclass, checked at construction."""

from dataclasses import dataclass, field

from configs.errors import check_ranges, ranged
from configs.schema import Device


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Settings of `python -m report`."""

    runs: str = "runs/main"
    """Folder of the trained members (config.yaml beside last.pt)."""
    shards: str = "shards/isic"
    """Folder of the shard set that they were trained on."""
    out: str | None = None
    """Folder to write report.html, report.md, figures and tables to; default: RUNS/report."""
    predictions: str | None = None
    """Folder that infer.py --ensemble wrote; default: RUNS/outputs or outputs, whichever is of these members. Without
    one, the members' own out-of-fold predictions (one view) are judged, and the test images are not shown."""
    compare: list[str] = field(default_factory=list)
    """Folders that infer.py --ensemble wrote for other folds of the same images (prep/shard.py --folds-file or
    --fold-scheme random): one fold a source, one fold a sub-source, or random folds. --compare DIR ..."""
    weights: str | None = None
    """File with a pretrained backbone's weights (--backbone names it), for near-duplicates by embedding; default: the
    first image member of --runs."""
    backbone: str = "tf_efficientnet_lite0"
    """The backbone of --weights."""
    pictures: int = ranged(1000, low=0)
    """Training pictures, drawn at random, in which artefacts and near-duplicates are looked for (0 leaves this out)."""
    stressed: int = ranged(100, low=0)
    """Pictures that artefacts are drawn on, to see how the scores change (0 leaves this out)."""
    draws: int = ranged(1000, low=100)
    """Draws of every bootstrap over groups (100 or more)."""
    seed: int = ranged(0, low=0)
    """Seed of everything that is drawn."""
    device: Device = "auto"
    """auto uses the GPU if there is one."""

    def __post_init__(self) -> None:
        check_ranges(self)
