"""The reference recipe as a notebook does it: DataLoader workers, Pillow, albumentations, a plain torch loop.

    python -m benchmarks.peers.plain_torch --data FOLDER --fold 0 --epochs 5 --out predictions.csv

FOLDER holds images/KEY.jpg and table.csv (key, fold, source, target, meta_0 ...), as benchmarks/trainer.py exports them
from a shard set. Writes key, target and the prediction after the last epoch of the held-out fold.
"""

import argparse
import math
import random
import time
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pandas as pd
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, Dataset

from models.torchvision_stub import define_missing_operators

define_missing_operators()  # a CPU build of torch beside PyPI's torchvision: without it timm does not import
import timm  # noqa: E402


class Lesions(Dataset[Any]):
    """Images and meta vectors of the rows of a table."""

    def __init__(self, table: pd.DataFrame, images: Path, transform: A.Compose, *, training: bool) -> None:
        self.keys = table["key"].tolist()
        self.meta = table[[name for name in table if name.startswith("meta_")]].to_numpy(np.float32)
        self.target = table["target"].to_numpy(np.float32)
        self.images, self.transform, self.training = images, transform, training

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        image = np.array(Image.open(self.images / f"{self.keys[number]}.jpg").convert("RGB"))
        meta = self.meta[number].copy()
        if self.training and random.random() < 0.1:  # sex, age and sites missing, their three masks set
            meta[:8], meta[8:] = 0.0, 1.0
        return self.transform(image=image)["image"], torch.from_numpy(meta), float(self.target[number])


class Net(nn.Module):
    """Backbone and meta branch in front of one linear layer behind five dropouts."""

    def __init__(self, backbone: str, meta_features: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(backbone, num_classes=0)
        first, second = (nn.Linear(meta_features, 512), nn.BatchNorm1d(512)), (nn.Linear(512, 128), nn.BatchNorm1d(128))
        self.meta = nn.Sequential(*first, nn.SiLU(), nn.Dropout(0.3), *second, nn.SiLU())
        self.dropouts = nn.ModuleList([nn.Dropout(0.5) for _ in range(5)])
        self.head = nn.Linear(self.backbone.head_hidden_size + 128, 1)

    def forward(self, image: torch.Tensor, meta: torch.Tensor) -> torch.Tensor:
        """Logits [B]."""
        features = torch.cat([self.backbone(image), self.meta(meta)], dim=1)
        return torch.stack([self.head(dropout(features)) for dropout in self.dropouts]).mean(0).squeeze(1)


def augmentations(workload: str, seed: int | None) -> A.Compose:
    """flips alone, or the full recipe, of uint8 images."""
    steps = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
    if workload == "full":
        steps += [
            A.RandomRotate90(p=0.5),
            A.ShiftScaleRotate(shift_limit=0.0625, scale_limit=0.1, rotate_limit=45, p=0.5),
            A.HueSaturationValue(hue_shift_limit=20, sat_shift_limit=30, val_shift_limit=20, p=0.5),
            A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
            A.CoarseDropout(num_holes_range=(1, 8), hole_height_range=(0.05, 0.1), hole_width_range=(0.05, 0.1), p=0.5),
        ]
    return A.Compose(steps, seed=seed)


def transforms(backbone: str, seed: int) -> tuple[A.Compose, A.Compose]:
    """Of training and of evaluation."""
    known = timm.models.get_pretrained_cfg(backbone)
    finish = [A.Normalize(mean=known.mean, std=known.std), ToTensorV2()]
    return A.Compose([*augmentations("full", seed).transforms, *finish], seed=seed), A.Compose(finish)


def optimizer_and_schedule(net: nn.Module, args: argparse.Namespace, steps: int) -> tuple[Any, Any]:
    """AdamW without decay on vectors; one warm-up epoch, then a cosine, by step."""
    matrices = [weight for weight in net.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in net.parameters() if weight.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=0.01)

    def factor(step: int) -> float:
        if step < steps:
            return (step + 1) / (steps + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - steps) / max(1, steps * (args.epochs - 1))))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def main() -> None:
    """Train, judge after each epoch, write the last predictions."""
    args = arguments()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    table = pd.read_csv(args.data / "table.csv")
    held_out = table[table["fold"] == args.fold]
    train_transform, eval_transform = transforms(args.backbone, args.seed)
    options = {"batch_size": args.batch_size, "num_workers": args.workers, "persistent_workers": args.workers > 0}
    options["pin_memory"] = device.type == "cuda"
    train_set = Lesions(table[table["fold"] != args.fold], args.data / "images", train_transform, training=True)
    eval_set = Lesions(held_out, args.data / "images", eval_transform, training=False)
    train_loader: DataLoader[Any] = DataLoader(train_set, shuffle=True, **options)
    eval_loader: DataLoader[Any] = DataLoader(eval_set, **options)
    layout = torch.channels_last if args.amp else torch.contiguous_format
    net = Net(args.backbone, train_set.meta.shape[1]).to(device, memory_format=layout)
    optimizer, schedule = optimizer_and_schedule(net, args, len(train_loader))
    positives = float(train_set.target.sum())
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor((len(train_set) - positives) / positives, device=device))
    for epoch in range(args.epochs):
        net.train()
        start, losses = time.perf_counter(), []
        for image, meta, target in train_loader:
            image = image.to(device, non_blocking=True, memory_format=layout)
            meta, target = meta.to(device), target.float().to(device) * 0.95 + 0.025
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.amp):
                loss = criterion(net(image, meta).float(), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        speed = len(train_set) / (time.perf_counter() - start)
        net.eval()
        with torch.no_grad():
            outputs = [net(image.to(device), meta.to(device)).sigmoid().cpu() for image, meta, _ in eval_loader]
        score = torch.cat(outputs).numpy()
        area = roc_auc_score(held_out["target"], score)
        print(f"epoch {epoch + 1} loss {np.mean(losses):.4f} AUC {area:.4f} {speed:.1f} img/s", flush=True)
    held_out.assign(pred_last=score)[["key", "target", "pred_last"]].to_csv(args.out, index=False)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The reference recipe in plain torch.", allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    defaults = {"backbone": "test_efficientnet.r160_in1k", "fold": 0, "epochs": 15, "batch-size": 64, "lr": 3e-3}
    defaults |= {"seed": 0, "workers": 2, "device": "cuda" if torch.cuda.is_available() else "cpu"}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--amp", action="store_true", help="bf16 autocast, channels_last")
    return parser.parse_args()


if __name__ == "__main__":
    main()
