"""Decoding and augmentation as one writes them with simplejpeg and OpenCV, for the peers that bring none."""

import io
import random
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image

cv2.setNumThreads(1)  # the peer's own workers share the cores


def decode(jpeg: bytes) -> Any:
    """uint8 [H, W, 3], RGB."""
    return simplejpeg.decode_jpeg(jpeg)


def pillow(jpeg: bytes) -> Any:
    """The same with Pillow."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.array(image.convert("RGB"))


def read(path: str) -> bytes:
    """The bytes of a file."""
    with open(path, "rb") as file:  # noqa: PTH123 - the fastest way
        return file.read()


def tensor(image: Any) -> torch.Tensor:
    """Its pixels, in one piece."""
    return torch.from_numpy(np.ascontiguousarray(image))


def augmentation(workload: str) -> Callable[[Any], Any]:
    """The function that a workload asks of each image."""
    return {"flips": flips, "full": full}[workload]


def flips(image: Any) -> Any:
    """Left-right and up-down, each with probability one half."""
    horizontal, vertical = random.random() < 0.5, random.random() < 0.5
    if horizontal or vertical:
        return cv2.flip(image, -1 if horizontal and vertical else int(horizontal))
    return image


def full(image: Any) -> Any:
    """The reference recipe, step by step: flips, quarter turn, shift-scale-rotate, colours, holes."""
    image = flips(image)
    if random.random() < 0.5:
        image = cv2.rotate(image, random.randrange(3))
    edge = image.shape[0]
    if random.random() < 0.5:
        matrix = cv2.getRotationMatrix2D((edge / 2, edge / 2), random.uniform(-45, 45), random.uniform(0.9, 1.1))
        matrix[:, 2] += [random.uniform(-0.0625, 0.0625) * edge for _ in range(2)]
        image = cv2.warpAffine(image, matrix, (edge, edge), borderMode=cv2.BORDER_CONSTANT)
    if random.random() < 0.5:
        hue = (np.arange(256) + random.uniform(-10, 10)) % 180  # OpenCV counts hue in steps of two degrees
        others = [np.clip(np.arange(256) + random.uniform(-most, most), 0, 255) for most in (30, 20)]
        tables = np.stack([hue, *others], axis=-1).astype(np.uint8)[None]
        image = cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables), cv2.COLOR_HSV2RGB)
    if random.random() < 0.5:
        contrast, brightness = random.uniform(0.8, 1.2), random.uniform(-0.2, 0.2) * 255
        image = cv2.LUT(image, np.clip(np.arange(256) * contrast + brightness, 0, 255).astype(np.uint8))
    if random.random() < 0.5:
        image = np.ascontiguousarray(image)
        for _ in range(random.randint(1, 8)):
            height, width = (random.randint(edge // 20, edge // 10) for _ in range(2))
            top, left = random.randrange(edge - height), random.randrange(edge - width)
            image[top : top + height, left : left + width] = 0
    return image
