"""A picture of the stream: the same samples plain and augmented, from each placement that this machine has.

python -m loaders.show shards/isic --out grid.png
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.cli import parse, run_command
from configs.schema import LoaderConfig, ShowConfig
from loaders.shards import ShardSet

_INK = "#1f2933"


def main(argv: Sequence[str]) -> None:
    """Parse, render, write the picture."""
    if argv and not argv[0].startswith("-"):
        argv = ["--shards", *argv]
    config = parse(ShowConfig, argv, prog="python -m loaders.show", description=(__doc__ or "").split("\n")[0])
    draw_grid(config, Path(config.out))
    print(config.out)


def draw_grid(config: ShowConfig, path: Path) -> None:
    """Write a PNG: one row a sample, half of them melanomas; for each placement one column plain, then the epochs."""
    import matplotlib.figure  # after the parsing: it is heavy, and --help should not wait

    shards = ShardSet(Path(config.shards))
    rows = _chosen_rows(shards, config.samples)
    shown = {name: pictures(shards, rows, loader, config) for name, loader in available_loaders().items()}
    columns = [(name, epoch) for name in shown for epoch in range(config.epochs + 1)]
    figure = matplotlib.figure.Figure(figsize=(1.3 * len(columns), 1.36 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, index in zip(axes, rows, strict=True):
        for (name, epoch), axis in zip(columns, line, strict=True):
            axis.imshow(shown[name][epoch][int(index)])
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(_label(shards, int(index)), fontsize=7, color=_INK)
    for (name, epoch), axis in zip(columns, axes[0], strict=True):
        what = f"epoch {epoch}" if epoch else "as stored"
        axis.set_title(f"{name}\n{what}" if not epoch else f"\n{what}", fontsize=9, color=_INK, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    shards.close()


def available_loaders() -> dict[str, LoaderConfig]:
    """The placements that run on this machine, by the name a picture or a table gives them."""
    import torch

    from loaders.dali import require_dali

    loaders = {"host": LoaderConfig(placement="host")}
    if require_dali() is None:
        loaders["dali-cpu"] = LoaderConfig(placement="dali-cpu")
        if torch.cuda.is_available():
            loaders["dali-gpu, mixed"] = LoaderConfig(placement="dali-gpu")
            loaders["dali-gpu, cpu decode"] = LoaderConfig(placement="dali-gpu", decode="cpu")
            loaders["dali-gpu, cached"] = LoaderConfig(placement="dali-gpu", cache="gpu")
    return loaders


def pictures(shards: ShardSet, rows: Any, loader: LoaderConfig, config: ShowConfig) -> list[dict[int, Any]]:
    """uint8 [H, W, 3] by sample number: as stored, then of each epoch."""
    import torch

    from loaders.order import Partition
    from loaders.placement import open_loader
    from loaders.stream import eval_requests, train_requests

    partition = Partition(samples=len(rows), batch_size=len(rows))
    gpu = loader.placement == "dali-gpu"
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    epochs = train_requests(
        rows, partition, config.augment, seed=config.seed, size=shards.size, epochs=range(config.epochs)
    )
    with open_loader(loader, shards, rows, device, threads=1) as opened:
        renderer = opened.renderer(len(rows))
        found = []
        for requests in (eval_requests(rows, partition), epochs):
            for request, images in renderer.render(requests):
                found.append(dict(zip(request.index.tolist(), images.cpu().numpy().copy(), strict=True)))
    return found


def _chosen_rows(shards: ShardSet, samples: int) -> Any:
    import numpy as np

    train = np.flatnonzero(shards.fold >= 0)
    melanomas, others = (train[(shards.target[train] == 1) == wanted] for wanted in (True, False))
    first = melanomas[: -(-samples // 2)]
    return np.sort(np.concatenate([first, others[: samples - len(first)]]))


def _label(shards: ShardSet, index: int) -> str:
    kind = "melanoma" if shards.target[index] == 1 else "other"
    return f"{kind}, {shards.source[index]}\n{shards.key[index]}"


if __name__ == "__main__":
    run_command(main)
