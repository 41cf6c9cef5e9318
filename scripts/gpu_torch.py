"""Checks of scripts/gpu-check with other libraries on memory of a GPU: umem.torch with a torch that has CUDA, CuPy."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import numpy as np
from gpu_check import Gpu, memory, name_of
from gpu_isolated import Case
from gpu_page import Waived

import umem

GPU_BYTES = 1 << 30
PIECE_BYTES = 64 << 20


def check_training() -> str:
    """Three steps of a small model in the pool give the weights that they give outside of it."""
    import torch

    def train() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 8)
        ).cuda()
        optimizer = torch.optim.AdamW(model.parameters())
        data = torch.randn(64, 256, device="cuda")
        for _ in range(3):
            optimizer.zero_grad()
            model(data).square().mean().backward()
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    expected = train()
    with umem.torch.use_gpu_pool():
        got = train()
    assert all(gpu_pool().holds(tensor.data_ptr()) for tensor in got), "weights are elsewhere"
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True)), "weights differ"
    return f"{len(got)} weights equal after 3 steps"


def check_streams() -> str:
    """Memory given up while its stream still writes is not handed to another stream before that has ended."""
    import torch

    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    num_rounds, num_reused = 50, 0
    for turn in range(num_rounds):
        with umem.torch.use_gpu_pool():
            with torch.cuda.stream(first):
                written = torch.empty(PIECE_BYTES, dtype=torch.uint8, device="cuda")
                for _ in range(20):
                    written.fill_(1)
            pointer = written.data_ptr()
            del written
        gpu_pool().trim()
        with umem.torch.use_gpu_pool(), torch.cuda.stream(second):
            fresh = torch.full((PIECE_BYTES,), 2, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        num_reused += fresh.data_ptr() == pointer
        assert bool((fresh == 2).all()), f"round {turn}: the first stream wrote into memory of the second"
        del fresh
    return f"{num_rounds} rounds, the same memory again in {num_reused}"


def check_full() -> str:
    """Check that torch raises its own error where the memory is full, and that freed memory is allocated again."""
    import torch

    with umem.torch.use_gpu_pool():
        kept = [torch.empty(GPU_BYTES // 2, dtype=torch.uint8, device="cuda")]
        try:
            kept.append(torch.empty(GPU_BYTES, dtype=torch.uint8, device="cuda"))
        except torch.cuda.OutOfMemoryError:
            kept.clear()
        assert not kept, "more was given than there is"
        torch.empty(GPU_BYTES // 2, dtype=torch.uint8, device="cuda")
    return "OutOfMemoryError, then room again"


def gpu_pool() -> umem.torch.cuda.GpuPool:
    from umem.torch import cuda

    assert cuda._gpu_pool is not None
    return cuda._gpu_pool


def check_cupy() -> str:
    """CuPy's own kernels compute in umem's memory, by its address."""
    if importlib.util.find_spec("cupy") is None:
        raise Waived("CuPy is not installed")
    import cupy

    gpu = Gpu(0)
    with memory([gpu], gpu.granularity) as (pointer,):
        borrowed = cupy.cuda.UnownedMemory(pointer, gpu.granularity, None)
        array = cupy.ndarray(1024, cupy.int64, cupy.cuda.MemoryPointer(borrowed, 0))
        array[:] = cupy.arange(1024) * 3
        cupy.cuda.runtime.deviceSynchronize()
        found = gpu.words(pointer, 1024)
    assert (found == 3 * np.arange(1024)).all(), "values differ"
    return f"1,024 numbers by CuPy {cupy.__version__}"


def tensors_at_homes(space: umem.Space) -> int:
    """In a rank with a GPU: torch's tensors in own, a neighbour's and host memory, at addresses of the space."""
    import torch

    umem.torch.install(space)
    torch.cuda.set_device(space.gpu.device.ordinal)
    homes = ["local", "host", (space.rank + 1) % space.num_ranks]
    for home in homes:
        with umem.torch.use_gpu_pool(home=home):
            tensor = torch.arange(1 << 20, dtype=torch.float32, device="cuda")
        torch.cuda.synchronize()
        found = np.zeros(1 << 20, np.float32)
        space.get(found, space.address(tensor.data_ptr()))
        assert (found == np.arange(1 << 20)).all(), f"home {home}: values differ"
        del tensor
    space.barrier()
    return len(homes)


def arrays_at_homes(space: umem.Space) -> int:
    """In a rank with a GPU: CuPy's arrays there."""
    import cupy

    cupy.cuda.Device(space.gpu.device.ordinal).use()
    homes = ["local", "host", (space.rank + 1) % space.num_ranks]
    for home in homes:
        pool = cupy.cuda.MemoryPool(umem.cupy_allocator(space, home))
        with cupy.cuda.using_allocator(pool.malloc):
            array = cupy.arange(1 << 20, dtype=cupy.float32) * 2
        cupy.cuda.runtime.deviceSynchronize()
        found = np.zeros(1 << 20, np.float32)
        space.get(found, space.address(array.data.ptr))
        assert (found == 2 * np.arange(1 << 20)).all(), f"home {home}: values differ"
        del array
        pool.free_all_blocks()
    space.barrier()
    return len(homes)


def at_homes(library: str, work: Callable[[umem.Space], int]) -> str:
    """Run `work` in two ranks of the first GPU. Raises Waived without the library, or one that sees no GPU."""
    if importlib.util.find_spec(library) is None:
        raise Waived(f"{library} is not installed")
    if library == "torch":
        import torch

        if not torch.cuda.is_available():
            raise Waived(f"torch {torch.__version__} sees no CUDA device: umem.torch is not checked")
    return f"{umem.launch(work, ranks=2, device='cuda:0', segment='256M')} homes"


def in_pool(check: Callable[[], str]) -> str:
    """Run a check of torch in a process whose torch may use memory of umem. Raises Waived without such a torch."""
    if importlib.util.find_spec("torch") is None:
        raise Waived("torch is not installed: umem.torch is not checked")
    import torch

    if not torch.cuda.is_available():
        raise Waived(f"torch {torch.__version__} sees no CUDA device: umem.torch is not checked")
    with umem.init() as space:
        umem.torch.install(space, gpu_bytes=GPU_BYTES)
        return check()


def cases() -> list[Case]:
    """Each in a process of its own: a process installs once."""
    found = [
        Case(f"torch {name_of(check)}", "cuda:0", functools.partial(in_pool, check), is_last=True)
        for check in (check_training, check_streams, check_full)
    ]
    return [
        *found,
        Case("torch homes", "cuda:0", functools.partial(at_homes, "torch", tensors_at_homes), is_last=True),
        Case("cupy", "cuda:0", check_cupy, is_last=True),
        Case("cupy homes", "cuda:0", functools.partial(at_homes, "cupy", arrays_at_homes), is_last=True),
    ]
