"""Rows of a byte an element: each with a scale and an offset, float32, in front of it."""

from __future__ import annotations

import numpy as np

from ..kernels.embedding.bags import QUANTISED_HEADER_BYTES

LEVELS = 255


def quantise(rows: np.ndarray) -> np.ndarray:
    """The bytes of float32 `rows` [num, columns]: an element is the nearest of 256 levels from a row's least to its
    greatest."""
    least, greatest = rows.min(1, initial=np.inf), rows.max(1, initial=-np.inf)
    scale = ((greatest.astype(np.float64) - least) / LEVELS).astype(np.float32)
    out = np.empty((len(rows), QUANTISED_HEADER_BYTES + rows.shape[1]), np.uint8)
    out[:, :4] = scale[:, None].view(np.uint8)
    out[:, 4:8] = least.astype(np.float32)[:, None].view(np.uint8)
    steps = np.where(scale > 0, scale, 1)[:, None]
    out[:, QUANTISED_HEADER_BYTES:] = np.clip(np.rint((rows - least[:, None]) / steps), 0, LEVELS)
    return out


def restored(rows: np.ndarray) -> np.ndarray:
    """What the bytes of rows stand for, as float32."""
    header = np.ascontiguousarray(rows[:, :QUANTISED_HEADER_BYTES]).view(np.float32)
    return header[:, 1:2] + header[:, :1] * rows[:, QUANTISED_HEADER_BYTES:].astype(np.float32)
