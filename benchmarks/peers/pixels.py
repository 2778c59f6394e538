"""Decoding and augmentation as one writes them with simplejpeg and OpenCV, for the peers that bring none."""

import random
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import simplejpeg

cv2.setNumThreads(1)  # the peer's own workers share the cores
Picture = Any


def decode(jpeg: bytes) -> Picture:
    """uint8 [H, W, 3], RGB."""
    return simplejpeg.decode_jpeg(jpeg)


def read(path: str) -> Picture:
    """The same of a file."""
    with open(path, "rb") as file:  # noqa: PTH123 - the fastest way
        return decode(file.read())


def augmentation(workload: str) -> Callable[[Picture], Picture]:
    """The function that a workload asks of each picture."""
    return {"flips": flips, "full": full}[workload]


def flips(image: Picture) -> Picture:
    """Left-right and up-down, each with probability one half."""
    horizontal, vertical = random.random() < 0.5, random.random() < 0.5
    if horizontal or vertical:
        return cv2.flip(image, -1 if horizontal and vertical else int(horizontal))
    return image


def full(image: Picture) -> Picture:
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
        image = _hue_saturation_value(image)
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


def _hue_saturation_value(image: Picture) -> Picture:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    steps = np.arange(256)
    tables = [
        (steps + random.uniform(-10, 10)) % 180,  # OpenCV counts hue in steps of two degrees
        np.clip(steps + random.uniform(-30, 30), 0, 255),
        np.clip(steps + random.uniform(-20, 20), 0, 255),
    ]
    hsv = cv2.LUT(hsv, np.stack(tables, axis=-1).astype(np.uint8)[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
