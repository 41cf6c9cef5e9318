"""What umem.torch does to the process around it: imports, the end of the space and of the interpreter, the shim."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parent_server import Servers

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

TIMEOUT_S = 100
README = Path(__file__).parents[2] / "README.md"
SPACE = "umem.init(umem.WorldSpec.of(1, 'mapped', segment='32M', timeout_s=20))"


def run(source: str) -> str:
    """What a program prints in a new interpreter; it must end with exit code 0 and no word of complaint."""
    command = [sys.executable, "-c", _program(source)]
    return _printed(
        subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    )


@pytest.fixture
def run_loaded(parent_servers: Servers) -> Callable[[str], str]:
    """As `run`, in a fork of a process that has imported torch and loaded the kernels: two seconds sooner."""
    return lambda source: _printed(parent_servers.run_program(_program(source), ("torch",), TIMEOUT_S))


def _program(source: str) -> str:
    return textwrap.dedent(source).replace("SPACE", SPACE)


def _printed(done: subprocess.CompletedProcess[str]) -> str:
    complaints = [line for line in done.stderr.splitlines() if "compiling" not in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
    return done.stdout.strip()


pytestmark = pytest.mark.timeout(2 * TIMEOUT_S)


def test_nothing_imports_torch_before_it_is_used():
    told = run("""
        import sys, umem, umem.torch
        print("torch" in sys.modules, "numba" in sys.modules, "use_pool" in dir(umem.torch))
    """)
    assert told == "False False True"


def test_torch_missing_is_said_with_the_way_out():
    told = run("""
        import sys, umem.torch
        sys.modules["torch"] = None
        try:
            umem.torch.install
        except umem.errors.TorchMissing as error:
            print(error)
    """)
    assert "scripts/setup torch" in told


@pytest.mark.parametrize(("keys_before", "is_found"), [(0, True), (64, False)])
def test_a_thread_finds_its_part_by_offset_or_by_the_call(run_loaded, keys_before, is_found):
    """glibc has only the first 32 keys in the thread's own block; above, pthread_getspecific is called."""
    told = run_loaded(f"""
        import ctypes, threading, torch, umem, umem.torch
        libc, key = ctypes.CDLL(None), ctypes.c_uint()
        for _ in range({keys_before}):
            assert libc.pthread_key_create(ctypes.byref(key), None) == 0
        def work(home):
            with umem.torch.use_pool(home=home):
                homes.append(umem.torch.home(torch.ones(100)))
            homes.append(umem.torch.home(torch.ones(100)))
        homes = []
        with SPACE as space:
            umem.torch.install(space)
            thread = threading.Thread(target=work, args=("striped",))
            with umem.torch.use_pool(home=0):
                thread.start()
                thread.join()
                homes.append(umem.torch.home(torch.ones(100)))
            work(0)
            print(homes, umem.torch.pool.page()[umem.torch.layout.PAGE_KEY_OFFSET] != 0)
    """)
    assert told == f"['striped', None, 0, 0, None] {is_found}"


def test_detached_tensors_outlive_the_space(run_loaded):
    told = run_loaded("""
        import torch, umem, umem.torch
        space = SPACE
        umem.torch.install(space, at_close="detach")
        with umem.torch.use_pool(home=0):
            kept = torch.arange(100_000)
        space.close()
        print(int(kept.sum()), int((kept + 1).sum()), torch.ones(3).tolist())
        del kept
        print(umem.torch.pool.pool_or_none())
    """)
    assert told.splitlines() == ["4999950000 5000050000 [1.0, 1.0, 1.0]", "None"]


def test_closing_with_live_tensors_warns_and_the_next_space_is_refused(run_loaded):
    told = run_loaded("""
        import sys, warnings, torch, umem, umem.torch
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with SPACE as space:
                umem.torch.install(space)
                with umem.torch.use_pool(home=0):
                    kept = torch.arange(100)
                    cycle = [torch.ones(3)]
                    cycle.append(cycle)
                    del cycle
        print(int(kept.sum()), [str(one.message)[:25] for one in warned], warned[0].filename)
        try:
            SPACE
        except umem.errors.WorldError as error:
            print(error)
    """)
    first, second = told.splitlines()
    assert first == "4950 ['1 torch storages live in ']  <string>".replace("  ", " ")
    assert "torch tensors of its memory were alive" in second and "new process" in second


def test_numpy_views_that_live_refuse_the_next_space():
    told = run("""
        import umem
        with SPACE as space:
            gone = [space.empty(10, "int64").numpy()]
            gone.append(gone)
            del gone
        with SPACE as space:
            kept = space.empty(10, "int64").numpy()
            kept[:] = 7
        print(int(kept.sum()))
        try:
            SPACE
        except umem.errors.WorldError as error:
            print("numpy views" in str(error))
    """)
    assert told.split() == ["70", "True"]


def test_after_an_exception_the_space_detaches(run_loaded):
    told = run_loaded("""
        import torch, umem, umem.torch
        try:
            with SPACE as space:
                umem.torch.install(space)
                with umem.torch.use_pool(home=0):
                    kept = torch.arange(100)
                    raise KeyError("mine")
        except KeyError as error:
            print(error, int(kept.sum()), space.is_open)
    """)
    assert told == "'mine' 4950 False"


def test_tensors_may_live_at_the_end_of_the_interpreter():
    told = run("""
        import threading, torch, umem, umem.torch
        space = SPACE
        umem.torch.install(space)
        context = umem.torch.use_pool(home=0)
        context.__enter__()
        model = torch.nn.Linear(64, 64)
        loss = model(torch.randn(64, 64)).sin().sum()
        cycle = [loss]
        cycle.append(cycle)
        forever = threading.Event()
        threading.Thread(target=lambda held: forever.wait(), args=(torch.ones(1000),), daemon=True).start()
        print("end")
    """)
    assert told == "end"


def test_one_space_after_another(run_loaded):
    told = run_loaded("""
        import threading, torch, umem, umem.torch
        for _ in range(3):
            with SPACE as space:
                umem.torch.install(space)
                context = umem.torch.use_pool(home=0)
                with context:
                    tensor = torch.ones(1000)
                print(umem.torch.home(tensor), end=" ")
                del tensor
            try:
                with context:
                    print("entered")
            except umem.errors.WorldError:
                pass
        print(torch.ones(2).tolist())
    """)
    assert told == "0 0 0 [1.0, 1.0]"


def test_a_closed_space_is_refused(run_loaded):
    told = run_loaded("""
        import umem, umem.torch
        space = SPACE
        space.close()
        try:
            umem.torch.install(space)
        except umem.errors.WorldError as error:
            print(error)
    """)
    assert told == "the space is closed"


SHIM = """
    import platform, torch, umem, umem.torch
    platform.machine = lambda: "elsewhere"
    with SPACE as space:
        umem.torch.install(space)
        with umem.torch.use_pool(home=0):
            tensor = torch.randn(100, 100) @ torch.randn(100, 100)
            storage = torch.UntypedStorage(4096)
            try:
                torch.empty(1 << 40, dtype=torch.uint8)
            except RuntimeError as error:
                print("no room" in str(error))
        print(umem.torch.home(tensor), umem.torch.home(torch.ones(3)))
        tensor.resize_(10, 10)
        del tensor, storage
        print(umem.torch.pool.installed().num_live())
"""


def test_the_shim_does_the_same(run_loaded):
    told = run_loaded(SHIM)
    assert told.split() == ["True", "0", "None", "0"]


def test_without_layout_and_compiler_the_reasons_are_given(run_loaded):
    told = run_loaded("""
        import platform, shutil, torch, umem, umem.torch
        import umem.torch.shim as shim
        platform.machine = lambda: "elsewhere"
        shim._SOURCE = type("Other", (), {"read_text": staticmethod(lambda: "other text")})
        shutil.which = lambda name: None
        with SPACE as space:
            try:
                umem.torch.install(space)
            except umem.errors.AllocatorRefused as error:
                print(error)
            print(torch.ones(2).tolist())
    """)
    assert "known for x86_64, not for elsewhere" in told and "no C++ compiler" in told
    assert told.endswith("[1.0, 1.0]")


def test_an_unknown_layout_is_noticed_before_anything_is_called(run_loaded):
    told = run_loaded("""
        import torch, umem, umem.torch
        import umem.torch.c10 as c10
        found = c10.C10()
        default = found.allocator()
        table = c10._word(default)
        for slot in range(c10.NUM_SLOTS):
            words = (c10.ctypes.c_uint64 * 8)(*[c10._word(table + 8 * index) for index in range(8)])
            if slot in (0, 1):
                continue
            words[slot] = c10.ctypes.cast(c10.ctypes.CDLL(None).abort, c10.ctypes.c_void_p).value
            fake = (c10.ctypes.c_uint64 * 1)(c10.ctypes.addressof(words))
            try:
                found.default_functions(c10.ctypes.addressof(fake))
                print(slot, "unseen")
            except umem.errors.AllocatorRefused:
                print(slot, end=" ")
    """)
    assert told == "2 3 4 5"


READERS_OWN = """
import torch
import umem

class MyModel(torch.nn.Linear):
    def __init__(self):
        super().__init__(64, 64)

def train(model):
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()

"""


def test_the_example_in_readme_runs_as_it_stands(tmp_path):
    text = README.read_text()
    example = re.search(
        r"^```python\n(with umem\.init\(\).*?umem\.torch.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    script = tmp_path / "example.py"
    script.write_text(READERS_OWN + example[1])
    command = [sys.executable, "-m", "umem", "run", "-n", "2", str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    assert len(re.findall(r"^\[\d\] 1 \|=", told, re.MULTILINE)) == 2, "the model lives at rank 1"
    warned = re.findall(
        r"^\[\d\] .*example\.py:\d+: RuntimeWarning: \d+ torch storages live", told, re.MULTILINE
    )
    assert len(warned) == 2 and "Error" not in told
