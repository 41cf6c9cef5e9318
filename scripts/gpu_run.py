"""All of scripts/gpu-check: the first answers, the checks, and the page about them; exit code 1 if a check failed.

    gpu_run.py [--only PART,...] [--page FILE] [--minutes N]

Parts, in order: answers, bare, libraries, sanitizer, worlds.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from gpu_isolated import judge, run_part, serve
from gpu_page import Page
from gpu_suites import run_sanitizer, run_worlds

from umem.errors import DeviceMissing
from umem.memory.device import cuda_driver

NO_GPU = 3
IN_CHILDREN = ("answers", "bare", "libraries")
PARTS = (*IN_CHILDREN, "sanitizer", "worlds")


def machine() -> list[str]:
    """The driver and each GPU, without making anything on them. Raises DeviceMissing."""
    driver = cuda_driver.load()
    major, minor = divmod(int(driver.call("cuDriverGetVersion")) // 10, 100)
    kernel = Path("/proc/driver/nvidia/version")
    lines = [f"driver of CUDA {major}.{minor}"]
    if kernel.exists():
        lines.append(kernel.read_text().splitlines()[0])
    count = int(driver.call("cuDeviceGetCount"))
    if count == 0:
        raise DeviceMissing("the CUDA driver sees no GPU; nvidia-smi shows what the machine has")
    for ordinal in range(count):
        name = bytes(driver.call("cuDeviceGetName", 256, driver.call("cuDeviceGet", ordinal)))
        lines.append(f"cuda:{ordinal}: {name.partition(bytes(1))[0].decode()}")
    return lines


def serve_part(part: str, first: int) -> None:
    """In a child: the cases of a part from number `first` on."""
    import gpu_answers
    import gpu_check
    import gpu_torch

    from umem.memory.device.cuda import num_devices

    def is_lost() -> bool:
        return cuda_driver.load().is_lost

    if part == "libraries":
        serve(gpu_torch.cases(), first, is_lost)
        return
    gpus = [gpu_check.Gpu(ordinal) for ordinal in range(num_devices())]
    serve((gpu_answers if part == "answers" else gpu_check).cases(gpus), first, is_lost)
    if not is_lost():
        for gpu in gpus:
            gpu.close()


def run_here(names: list[str]) -> int:
    """Some checks of the first bare device in this process, for a tool that watches it; 1 if one failed."""
    import gpu_check

    gpu = gpu_check.Gpu(0)
    told = [judge(case) for case in gpu_check.cases([gpu]) if case.name in names]
    gpu.close()
    for verdict, evidence in told:
        print(verdict, evidence)
    return int(len(told) != len(names) or any(verdict == "FAIL" for verdict, _ in told))


def main() -> int:
    """Run all parts, or those asked for; 0 if every check passed or was waived."""
    options = parse()
    if options.child:
        serve_part(options.child[0], int(options.child[1]))
        return 0
    if options.one:
        return run_here(options.one.split(","))
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        print(f"gpu-check: no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    start = time.monotonic()
    ends_at = start + 60 * options.minutes
    try:
        known = machine()
    except DeviceMissing as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return NO_GPU
    page = Page()
    for part in (part for part in PARTS if part in parts):
        print(f"# {part}", flush=True)
        if part in IN_CHILDREN:
            run_part(page, [sys.executable, __file__, "--child", part], ends_at)
        else:
            (run_sanitizer if part == "sanitizer" else run_worlds)(page, ends_at)
    page.write(options.page, known, time.monotonic() - start)
    return int(page.has_failed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu-check", description="Checks of umem on this machine's GPUs.")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--page", type=Path, default=Path("gpu-check.md"), help="file of the page")
    parser.add_argument("--minutes", type=float, default=9.5, help="what has not run by then has failed")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
