"""As much of a torch tensor on a GPU as a team looks at: a torch without CUDA has none."""

from __future__ import annotations

from types import SimpleNamespace

import torch


class Tensor:
    """Elements like those of `like` at `pointer`; one that is not whole is copied by torch, to `filled` at last."""

    layout = torch.strided

    def __init__(self, space, like, pointer, is_whole=True):
        self.space, self.like, self.pointer, self.is_whole = space, like, pointer, is_whole
        self.device = SimpleNamespace(type="cuda", index=space.gpu.device.ordinal)
        self.dtype, self.numel, self.filled = like.dtype, like.numel, None
        self.is_conj = self.is_neg = lambda: False

    def is_contiguous(self):
        return self.is_whole

    def data_ptr(self):
        return self.pointer

    def detach(self):
        return self

    def contiguous(self):
        return self if self.is_whole else Tensor(self.space, self.like, self.pointer)

    def copy_(self, other):
        self.filled = other
