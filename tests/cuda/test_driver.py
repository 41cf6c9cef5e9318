"""The driver layer, run by the real cuda.bindings on a libcuda that executes PTX on this CPU (driver/).

Evidence that the sequence of calls is legal, complete and paired, also between two processes; no evidence
about a GPU.
"""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_memory_is_created_shared_mapped_and_outlives_its_descriptor(run_steps):
    run_steps("create_shares_and_maps_in_order")


def test_addresses_translate_where_the_driver_moves_the_range(run_steps):
    run_steps("translates_where_the_driver_moves_the_range")


def test_what_cuda_cannot_do_is_a_typed_error(run_steps):
    run_steps("refuses_what_cuda_cannot_do")


def test_descriptor_of_other_memory_is_refused(run_steps):
    run_steps("a_foreign_descriptor_is_refused")


def test_memory_that_the_gpu_cannot_reach_is_refused_and_leaves_no_mapping(run_steps):
    run_steps("memory_out_of_reach_is_refused_and_unmapped", peers=0)


@pytest.mark.parametrize("native", [0, 1])
def test_native_atomics_between_peers_are_probed(run_steps, native):
    printed = run_steps("peers_are_probed", native_atomics=native)
    assert "Peer(ordinal=0, can_access=True, native_atomics=True)" in printed
    assert f"Peer(ordinal=1, can_access=True, native_atomics={bool(native)})" in printed


def test_two_processes_see_one_memory_and_run_a_kernel_on_it(run_steps):
    run_steps("two_processes_see_one_memory", module="launch_steps")


def test_two_processes_share_a_lock_of_one_device(run_steps):
    run_steps("two_processes_share_a_lock_of_one_device", module="launch_steps")


def test_kernels_that_cannot_start_are_typed_errors(run_steps):
    run_steps("launches_refuse_what_cannot_run", module="launch_steps")


def test_a_kernel_compiled_by_the_real_tools_runs(run_steps):
    run_steps("real_compilers", module="launch_steps")


def test_machine_code_is_kept_by_the_hash_of_its_ptx(run_steps):
    run_steps("machine_code_is_kept_by_the_hash_of_its_ptx", module="launch_steps")


@pytest.mark.timeout(400)  # lanes on different threads meet 10,000 times a test
def test_litmus_tests_show_several_ends_and_none_forbidden(run_steps):
    told = run_steps(
        "the_litmus_tests_show_several_ends_and_none_forbidden", module="launch_steps", timeout_s=300
    )
    assert told.count("SB") == told.count("MP") == told.count("CoRR") == 2 * (1 + 2 + 1)


def test_gpu_check_sees_a_broken_kernel(run_steps):
    run_steps("the_gpu_check_sees_a_broken_kernel", module="launch_steps")


def test_the_fake_refuses_what_the_documentation_forbids(run_steps):
    run_steps("the_fake_refuses_what_the_documentation_forbids")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"init": 100}, "cuInit returned CUDA_ERROR_NO_DEVICE; nvidia-smi shows"),
        ({"shares": 0}, "cuda:0 (fake GPU 0) cannot share memory"),
        ({"devices": 0}, "there is no cuda:0; this machine has 0 CUDA devices"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_named_with_the_way_out(run_steps, options, said):
    assert said in run_steps("try_to_open", **options)


def test_machine_without_a_driver_says_what_to_install():
    pytest.importorskip("cuda.bindings", reason="cuda.bindings is not installed: scripts/setup dev")
    code = (
        "import sys\nfrom umem.memory.device.cuda import CudaDevice\nfrom umem.errors import DeviceMissing\n"
        "try:\n    CudaDevice(10**6)\nexcept DeviceMissing as error:\n    print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert "Install NVIDIA's driver" in said or "there is no cuda:1000000" in said


def test_machine_without_the_extra_says_how_to_install_it():
    code = (
        "import sys\nsys.modules['cuda.bindings'] = None\n"
        "from umem.memory.device.cuda import CudaDevice\nfrom umem.errors import DeviceMissing\n"
        "try:\n    CudaDevice()\nexcept DeviceMissing as error:\n    print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert "scripts/setup cuda13" in said


def test_kernels_of_numba_cuda_itself_run_and_use_umem_s_memory(run_steps):
    told = run_steps("run_all", module="numba_steps").splitlines()
    assert told == ["own_kernels_run ok", "arrays_lie_over_umem_s_memory ok"]
