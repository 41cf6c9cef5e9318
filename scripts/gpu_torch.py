"""Checks of umem.torch on a GPU, with a torch that has CUDA; started by scripts/gpu-check after gpu_check.py."""

from __future__ import annotations

import importlib.util
import sys

from gpu_check import attempt

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


def main() -> int:
    """Run every check; 0 if all passed, or where torch has no CUDA."""
    if importlib.util.find_spec("torch") is None:
        print("# torch is not installed: umem.torch is not checked")
        return 0
    import torch

    if not torch.cuda.is_available():
        print(f"# torch {torch.__version__} sees no CUDA device: umem.torch is not checked")
        return 0
    with umem.init() as space:
        umem.torch.install(space, gpu_bytes=GPU_BYTES)
        passed = [attempt("torch", check) for check in (check_training, check_streams, check_full)]
    print(f"# {sum(passed)} of {len(passed)} checks passed with torch {torch.__version__}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
