"""A figure of the stream: the same samples plain and augmented, from each placement that this machine has.

python -m loaders.show shards/isic --out grid.png
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.cli import parse, run_command
from configs.colours import INK
from configs.schema import LoaderConfig, ShowConfig

if TYPE_CHECKING:
    from loaders.shards import ShardSet


def main(argv: Sequence[str]) -> None:
    """Parse, draw, write the figure."""
    if argv and not argv[0].startswith("-"):
        argv = ["--shards", *argv]
    config = parse(ShowConfig, argv, prog="python -m loaders.show", description=(__doc__ or "").split("\n")[0])
    draw_grid(config, Path(config.out))
    print(config.out)


def draw_grid(config: ShowConfig, path: Path) -> None:
    """Write a PNG: one row per sample, half of them melanomas; for each placement one column plain, then the epochs."""
    import matplotlib.figure  # imported after parsing, so that --help is fast
    import torch

    from loaders.shards import ShardSet

    shards = ShardSet(Path(config.shards))
    rows = _chosen_rows(shards, config.samples)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    shown = {name: images(shards, rows, loader, config, device) for name, loader in shown_loaders(device).items()}
    columns = [(name, epoch) for name in shown for epoch in range(config.epochs + 1)]
    figure = matplotlib.figure.Figure(figsize=(1.3 * len(columns), 1.36 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, index in zip(axes, rows, strict=True):
        for (name, epoch), axis in zip(columns, line, strict=True):
            axis.imshow(shown[name][epoch][int(index)])
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(_label(shards, int(index)), fontsize=7, color=INK)
    for (name, epoch), axis in zip(columns, axes[0], strict=True):
        what = f"epoch {epoch}" if epoch else "as stored"
        axis.set_title(f"{name}\n{what}" if not epoch else f"\n{what}", fontsize=9, color=INK, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    shards.close()


def shown_loaders(device: Any) -> dict[str, LoaderConfig]:
    """The ways to decode and augment on this machine, by the name of their column."""
    from loaders.placement import available_placements

    loaders = {str(place): LoaderConfig(placement=place) for place in available_placements(device)}
    if "dali-gpu" in loaders:
        loaders["dali-gpu, cpu decode"] = LoaderConfig(placement="dali-gpu", decode="cpu")
        loaders["dali-gpu, cached"] = LoaderConfig(placement="dali-gpu", cache="gpu")
    return loaders


def images(shards: "ShardSet", rows: Any, config: LoaderConfig, shown: ShowConfig, device: Any) -> list[dict[int, Any]]:
    """uint8 [H, W, 3] images by row number: one dict without augmentation, then one per epoch."""
    from loaders.loader import Loader
    from loaders.order import Partition

    partition, epochs = Partition(samples=len(rows), batch_size=len(rows)), range(shown.epochs)
    with Loader(config, shards, rows, device, threads=1) as loader:
        plain = loader.eval_batches(rows, partition)
        augmented = loader.train_batches(rows, partition, shown.augment, seed=shown.seed, epochs=epochs)
        return [
            dict(zip(batch.index.tolist(), batch.image.cpu().numpy().copy(), strict=True))
            for stream in (plain, augmented)
            for batch in stream
        ]


def _chosen_rows(shards: "ShardSet", samples: int) -> Any:
    import numpy as np

    train = np.flatnonzero(shards.fold >= 0)
    melanomas, others = (train[(shards.target[train] == 1) == wanted] for wanted in (True, False))
    first = melanomas[: -(-samples // 2)]
    return np.sort(np.concatenate([first, others[: samples - len(first)]]))


def _label(shards: "ShardSet", index: int) -> str:
    kind = "melanoma" if shards.target[index] == 1 else "other"
    return f"{kind}, {shards.source[index]}\n{shards.key[index]}"


if __name__ == "__main__":
    run_command(main)
