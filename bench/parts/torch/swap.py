"""Other ways to train with little memory: tensors go out between their uses, and come back for the next one."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.autograd.graph import saved_tensors_hooks

from umem.torch.offload import MIN_BYTES
from umem.torch.parts import pointer_of

TakeBack = Callable[[], torch.Tensor]  # returns a copy of a tensor that went out, in memory of its own
PutOut = Callable[[torch.Tensor], TakeBack]


def into_buffer(tensor: torch.Tensor) -> TakeBack:
    """The swap-to-CPU way: a private buffer for each tensor."""
    return tensor.detach().clone().clone


class File:
    """A file among the temporary ones. The kernel may keep its pages in memory, as for any file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="umem-bench-", buffering=0)  # noqa: SIM115  closed by close
        self._end = 0
        self._free: dict[int, list[int]] = {}  # places by size: a step's sizes are those of the one before

    def __call__(self, tensor: torch.Tensor) -> TakeBack:
        """Write the tensor to a place of the file, which is free again when the result is dropped."""
        whole = tensor.detach().contiguous()
        free = self._free.setdefault(whole.nbytes, [])
        begin = free.pop() if free else self._end
        self._end = max(self._end, begin + whole.nbytes)
        os.pwrite(self._file.fileno(), bytes_of(whole), begin)
        shape, dtype = whole.shape, whole.dtype

        def take_back() -> torch.Tensor:
            found = torch.empty(shape, dtype=dtype)
            os.preadv(self._file.fileno(), [bytes_of(found)], begin)
            return found

        weakref.finalize(take_back, free.append, begin)
        return take_back

    def num_bytes(self) -> int:
        """The length of the file."""
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file, which deletes it."""
        self._file.close()


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())


def is_worth_it(tensor: torch.Tensor) -> bool:
    """Whether umem's offload would move a tensor of this size."""
    return tensor.numel() * tensor.itemsize >= MIN_BYTES


@contextmanager
def swapped_activations(put_out: PutOut, model: torch.nn.Module) -> Iterator[None]:
    """Context of a forward pass: tensors that autograd saves, but parameters, go out and come back in backward."""
    kept = {pointer_of(tensor) for tensor in model.state_dict(keep_vars=True).values()}

    def pack(tensor: torch.Tensor) -> torch.Tensor | TakeBack:
        return put_out(tensor) if is_worth_it(tensor) and pointer_of(tensor) not in kept else tensor

    def unpack(packed: torch.Tensor | TakeBack) -> torch.Tensor:
        return packed if isinstance(packed, torch.Tensor) else packed()

    with saved_tensors_hooks(pack, unpack):
        yield


class SwappedOptimizer:
    """Keeps the state of an optimizer out, but for the time of its step."""

    def __init__(self, optimizer: torch.optim.Optimizer, put_out: PutOut):
        self._put_out = put_out
        self._out: list[tuple[dict[str, torch.Tensor], str, TakeBack]] = []
        optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: self._take_back())
        optimizer.register_step_post_hook(lambda optimizer, args, kwargs: self._put_all_out(optimizer))

    def _take_back(self) -> None:
        for state, name, take_back in self._out:
            state[name] = take_back()
        self._out = []

    def _put_all_out(self, optimizer: torch.optim.Optimizer) -> None:
        for state in optimizer.state.values():
            for name, value in state.items():
                if is_worth_it(value):
                    self._out.append((state, name, self._put_out(value)))
                    state[name] = torch.empty(0)  # frees the memory of the tensor that went out
