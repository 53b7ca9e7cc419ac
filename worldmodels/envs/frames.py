"""Images of any size → V's frames.

Shapes: N images, H × W pixels.
"""

import functools

import numpy as np

FRAME_SIZE = 64  # pixels; V's input (paper, appendix A.1)
Crop = tuple[int, int, int, int]
"""Pixels kept before resizing: top, bottom, left, right."""


@functools.lru_cache(maxsize=8)
def area_weights(source: int, target: int) -> np.ndarray:
    """(target, source) float32: row i holds the share of each source pixel in target pixel i; rows sum to one."""
    edges = np.arange(target + 1) * (source / target)
    left, right = np.arange(source), np.arange(source) + 1
    overlap = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    return (np.clip(overlap, 0, None) * (target / source)).astype(np.float32)


def as_frames(observations: np.ndarray, crop: Crop | None = None) -> np.ndarray:
    """Images uint8 (N, H, W[, 1 or 3]) → V's frames uint8 (N, 64, 64, 3), by exact area average."""
    images = observations[..., None] if observations.ndim == 3 else observations
    if crop is not None:
        top, bottom, left, right = crop
        images = images[:, top:bottom, left:right]
    if images.shape[1:3] != (FRAME_SIZE, FRAME_SIZE):
        count, height, width, channels = images.shape
        rows, columns = area_weights(height, FRAME_SIZE), area_weights(width, FRAME_SIZE)
        low = rows @ images.reshape(count, height, width * channels).astype(np.float32)  # (N, 64, W · C)
        low = low.reshape(count, FRAME_SIZE, width, channels).swapaxes(2, 3)
        small = (low.reshape(-1, width) @ columns.T).reshape(count, FRAME_SIZE, channels, FRAME_SIZE)
        images = np.floor(small + np.float32(0.5)).astype(np.uint8).swapaxes(2, 3)
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else np.ascontiguousarray(images)
