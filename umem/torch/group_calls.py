"""The collectives of torch.distributed as operations of a team: lists of tensors, splits, and what teams do not reduce.

Independent of how torch wants a backend made: process_group.py mixes this into the class that torch takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import ReduceOp, Work

from ..collectives.buffers import COMBINABLE
from ..collectives.team import Team
from ..errors import ArgumentTypeError, ConfigError
from .works import Done, Engine

_Kind: Any = ReduceOp.RedOpType

OPERATIONS = {
    _Kind.SUM: "sum",
    _Kind.AVG: "avg",
    _Kind.PRODUCT: "prod",
    _Kind.MIN: "min",
    _Kind.MAX: "max",
}
# Reductions that teams have not: every member gathers, and combines in the members' order.
BY_GATHERING: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    _Kind.BAND: torch.bitwise_and,
    _Kind.BOR: torch.bitwise_or,
    _Kind.BXOR: torch.bitwise_xor,
}
_COMBINABLE = frozenset(getattr(torch, name) for name in COMBINABLE)
# Types of a byte that NumPy has no name for: moved as bytes.
_AS_BYTES = frozenset(kind for name, kind in vars(torch).items() if name.startswith("float8"))
_NOTHING = Done()
_SUM = _Kind.SUM  # comparing with a ReduceOp takes ten times as long


class GroupCalls:
    """Collectives of one group. Options are torch's; a call whose `asyncOp` is false returns when it is done."""

    def __init__(self, team: Team, engine: Engine):
        self.team, self.engine = team, engine
        self._sums: dict[torch.dtype, Callable[[int, int], None] | None] = {}

    # --- reductions

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Work:
        """Reduce each tensor in place, at every member."""
        if opts is not None and not opts.asyncOp and not self.engine.num_pending and opts.reduceOp == _SUM:
            # The commonest call, of small tensors too, goes straight to the team.
            tensor = tensors[0]
            reduce = self._sums.get(tensor.dtype)
            if reduce is not None and tensor.is_contiguous() and tensor.is_cpu and len(tensors) == 1:
                reduce(tensor.data_ptr(), tensor.numel())
                return _NOTHING
        kind = _reduction(opts)
        for tensor in tensors:
            if tensor.dtype in _COMBINABLE and tensor.dtype not in self._sums:
                self._sums[tensor.dtype] = self.team.prepare_all_reduce("sum", tensor.dtype)

        def step() -> None:
            for tensor in tensors:
                self._all_reduce(tensor, kind)

        return self.engine.do(step, tensors, _is_async(opts))

    allreduce_coalesced = allreduce

    def reduce(self, tensors: list[Tensor], opts: Any) -> Work:
        """Reduce the tensor into the root's."""
        kind, root, (tensor,) = _reduction(opts), opts.rootRank, tensors

        def step() -> None:
            out = tensor if self.team.position == root else None
            if kind in OPERATIONS and tensor.dtype in _COMBINABLE:
                self.team.reduce(out, tensor, OPERATIONS[kind], root)
                return
            result = tensor if out is not None else tensor.clone()
            self._all_reduce(result, kind)

        return self.engine.do(step, tensors, _is_async(opts))

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any = None) -> Work:
        """Reduce block i of all inputs into the output of member i."""
        kind = _reduction(opts)
        return self.engine.do(lambda: self._reduce_scatter(output, input, kind), [output], _is_async(opts))

    _reduce_scatter_base = reduce_scatter_single

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> Work:
        """The same for blocks in a list."""
        kind = _reduction(opts)

        def step() -> None:
            for output, blocks in zip(outputs, inputs, strict=True):
                self._reduce_scatter(output, _Joined(blocks, is_input=True).whole, kind)

        return self.engine.do(step, outputs, _is_async(opts))

    def reduce_scatter_single_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> Work:
        """Several of them."""
        kind = _reduction(opts)

        def step() -> None:
            for output, blocks in zip(outputs, inputs, strict=True):
                self._reduce_scatter(output, blocks, kind)

        return self.engine.do(step, outputs, _is_async(opts))

    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    # --- moves

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Work:
        """Fill every tensor with the root's."""
        root = 0 if opts is None else opts.rootRank

        def step() -> None:
            for tensor in tensors:
                self.team.broadcast(_plain(tensor), root)

        return self.engine.do(step, tensors, _is_async(opts))

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> Work:
        """Put every member's input into every output, by rank."""
        return self.engine.do(
            lambda: self.team.all_gather(_plain(output), _plain(input)), [output], _is_async(opts)
        )

    _allgather_base = all_gather_single

    def all_gather_single_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> Work:
        """Several of them."""

        def step() -> None:
            for output, source in zip(outputs, inputs, strict=True):
                self.team.all_gather(_plain(output), _plain(source))

        return self.engine.do(step, outputs, _is_async(opts))

    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> Work:
        """The same, into a list of tensors."""

        def step() -> None:
            for blocks, source in zip(outputs, inputs, strict=True):
                joined = _Joined(blocks)
                self.team.all_gather(joined.whole, _plain(source))
                joined.part()

        return self.engine.do(step, outputs, _is_async(opts))

    def allgather_coalesced(
        self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None
    ) -> Work:
        """`outputs[r]` has a tensor for each of the inputs of member r."""
        return self.allgather([list(blocks) for blocks in zip(*outputs, strict=True)], inputs, opts)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> Work:
        """Put every member's input into the root's list."""
        (source,), root = inputs, opts.rootRank

        def step() -> None:
            if self.team.position != root:
                self.team.gather(None, _plain(source), root)
                return
            joined = _Joined(outputs[0])
            self.team.gather(joined.whole, _plain(source), root)
            joined.part()

        return self.engine.do(step, outputs, _is_async(opts))

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> Work:
        """Put tensor i of the root's list into the output of member i."""
        (output,), root = outputs, opts.rootRank

        def step() -> None:
            is_root = self.team.position == root
            blocks = _Joined(inputs[0], is_input=True).whole if is_root else None
            self.team.scatter(_plain(output), blocks, root)

        return self.engine.do(step, outputs, _is_async(opts))

    def all_to_all_single(
        self,
        output: Tensor,
        input: Tensor,
        output_splits: Sequence[int] = (),
        input_splits: Sequence[int] = (),
        opts: Any = None,
    ) -> Work:
        """Exchange blocks of rows: as many as the splits say, or as many with each."""
        size = self.team.size
        if not output_splits and not input_splits:
            _rows("output", output, (), size), _rows("input", input, (), size)
            return self.engine.do(
                lambda: self.team.all_to_all(_plain(output), _plain(input)), [output], _is_async(opts)
            )
        taken, sent = _rows("output", output, output_splits, size), _rows("input", input, input_splits, size)
        return self.engine.do(
            lambda: self.team.all_to_all_v(_plain(output), _plain(input), taken, sent),
            [output],
            _is_async(opts),
        )

    alltoall_base = all_to_all_single

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        """Put tensor i of the inputs into the outputs of member i."""

        def step() -> None:
            joined, sent = _Joined(outputs), _Joined(inputs, is_input=True)
            self.team.all_to_all_v(joined.whole, sent.whole, joined.lengths, sent.lengths)
            joined.part()

        return self.engine.do(step, outputs, _is_async(opts))

    def barrier(self, opts: Any = None) -> Work:
        """Return when every member has come."""
        return self.engine.do(self.team.barrier, (), _is_async(opts))

    # --- how

    def _all_reduce(self, tensor: Tensor, kind: Any) -> None:
        if kind in OPERATIONS and tensor.dtype in _COMBINABLE:
            self.team.all_reduce(tensor, op=OPERATIONS[kind])
            return
        combine = _combination(kind, tensor)
        parts = torch.empty((self.team.size, *tensor.shape), dtype=tensor.dtype)
        self.team.all_gather(_plain(parts), _plain(tensor))
        total = parts[0]
        for part in parts[1:]:
            total = combine(total, part)
        tensor.detach().copy_(total)

    def _reduce_scatter(self, output: Tensor, blocks: Tensor, kind: Any) -> None:
        if kind in OPERATIONS and blocks.dtype in _COMBINABLE:
            self.team.reduce_scatter(output, blocks, OPERATIONS[kind])
            return
        whole = blocks.detach().clone()
        self._all_reduce(whole, kind)
        output.detach().view(-1).copy_(whole.view(self.team.size, -1)[self.team.position])


class _Joined:
    """Tensors of one type as one buffer, `whole`: their own memory where they lie one after the other in it, else a
    copy; `part` takes what was written there to them."""

    def __init__(self, tensors: Sequence[Tensor], is_input: bool = False):
        plain = [_plain(tensor) for tensor in tensors]
        self.lengths = [tensor.numel() for tensor in plain]
        self._targets: list[Tensor] = []
        if _are_consecutive(plain):
            self.whole = plain[0].as_strided((sum(self.lengths),), (1,))
        elif is_input:
            self.whole = torch.cat([tensor.reshape(-1) for tensor in plain])
        else:
            self.whole = torch.empty(sum(self.lengths), dtype=plain[0].dtype)
            self._targets = plain

    def part(self) -> None:
        """Fill the tensors."""
        if self._targets:
            for target, values in zip(self._targets, self.whole.split(self.lengths), strict=True):
                target.copy_(values.view(target.shape))


def _are_consecutive(tensors: Sequence[Tensor]) -> bool:
    first = tensors[0]
    place, end = first.data_ptr(), first.untyped_storage().data_ptr() + first.untyped_storage().nbytes()
    for tensor in tensors:
        if not tensor.is_contiguous() or tensor.data_ptr() != place:
            return False
        place += tensor.numel() * tensor.element_size()
    return first.numel() > 0 and place <= end


def _plain(tensor: Tensor) -> Tensor:
    """The tensor without its history, in a type that has a name outside of torch: the same memory."""
    tensor = tensor.detach()
    if tensor.dtype in _AS_BYTES:
        if not tensor.is_contiguous():
            raise ArgumentTypeError(f"a tensor of {tensor.dtype} is moved as bytes: pass it .contiguous()")
        return tensor.view(-1).view(torch.uint8)
    return tensor


def _rows(what: str, tensor: Tensor, splits: Sequence[int], size: int) -> list[int]:
    """Elements that go to, or come from, each member. Raises ConfigError."""
    num_rows = tensor.shape[0] if tensor.dim() else 1
    row = tensor.numel() // num_rows if num_rows else 0
    if not splits:
        if num_rows % size:
            raise ConfigError(
                f"{what} has {num_rows} rows, which {size} members cannot share alike: give splits"
            )
        return [num_rows // size * row] * size
    if len(splits) != size or sum(splits) != num_rows or min(splits) < 0:
        raise ConfigError(f"{what} splits {list(splits)} are not {size} numbers that make {num_rows} rows")
    return [split * row for split in splits]


def _reduction(opts: Any) -> Any:
    return _Kind.SUM if opts is None else opts.reduceOp.op


def _is_async(opts: Any) -> bool:
    return True if opts is None else opts.asyncOp


def _combination(kind: Any, tensor: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    combine = BY_GATHERING.get(kind)
    is_whole = not (tensor.dtype.is_floating_point or tensor.dtype.is_complex)
    if combine is None or not is_whole or tensor.dtype in _AS_BYTES:
        raise ArgumentTypeError(
            f"{kind} of {tensor.dtype} is no reduction here: there are sum, avg, product, min and max of"
            f" {', '.join(COMBINABLE)}, and band, bor, bxor of integers"
        )
    return combine
