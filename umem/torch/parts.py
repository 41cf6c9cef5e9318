"""The memory behind a tensor: its own storage, or those of the tensors that a sparse or a wrapper tensor is made of.

Some tensors have none: a lazy parameter, one on the meta device, a tensor that functorch passes to a mapped function.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

PLAIN_KINDS = (torch.Tensor, torch.nn.Parameter)
SPARSE_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def pointers_of(tensor: torch.Tensor) -> list[int]:
    """First addresses of all storages on the CPU that hold a tensor's values, such as a DTensor's local ones."""
    is_plain = type(tensor) in PLAIN_KINDS
    if is_plain and tensor.layout is torch.strided:
        pointer = _own_pointer(tensor)
        return [pointer] if pointer else []
    if not is_plain and is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        named = (getattr(tensor, name) for name in names)
        parts = [part for part in named if isinstance(part, torch.Tensor)]  # a DTensor names its mesh too
    elif tensor.layout in SPARSE_LAYOUTS:
        parts = sparse_parts(tensor)
    else:
        pointer = pointer_of(tensor)
        return [pointer] if pointer else []
    return [pointer for part in parts for pointer in pointers_of(part)]


def pointer_of(tensor: torch.Tensor) -> int:
    """First address of a tensor's own storage; 0 where it has none on the CPU."""
    if type(tensor) in PLAIN_KINDS:
        return _own_pointer(tensor)
    with torch._C.DisableTorchFunctionSubclass():  # a lazy parameter raises at most questions
        return _own_pointer(tensor)


def sparse_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The parts of a sparse tensor: indices and values; if it is compressed, compressed indices, plain ones, values."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]


def _own_pointer(tensor: torch.Tensor) -> int:
    if not tensor.is_cpu or tensor.layout is not torch.strided:
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # a wrapper's storage, or functorch's, which no query tells from others
        return 0
