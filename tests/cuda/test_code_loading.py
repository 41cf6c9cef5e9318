"""A code object that a driver refuses is an old driver's fault, whose way out is named; other errors stay theirs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from umem.errors import DeviceError, DeviceTooOld, DriverTooOld
from umem.kernels.build.code_object import CodeObject
from umem.memory.device.cuda_run import Module

CODE = CodeObject("pkg.kernel", "umem_kernel", "//\n.version 9.5\n", {(9, 0): b"cubin"}, b"fatbin")


def gpu(status: str, driver_version: int, capability: tuple[int, int] = (9, 0)) -> Any:
    """A GPU whose driver refuses every image with `status`."""

    def call(name: str, *arguments: Any, detail: str = "") -> Any:
        if name == "cuDriverGetVersion":
            return driver_version
        assert (name, arguments) == ("cuModuleLoadData", (b"fatbin",))
        raise DeviceError(name, status, detail)

    return SimpleNamespace(
        NAME="cuda:0",
        driver=SimpleNamespace(call=call),
        make_current=lambda: None,
        properties=SimpleNamespace(compute_capability=capability),
    )


@pytest.mark.parametrize("status", ["UNSUPPORTED_PTX_VERSION", "NO_BINARY_FOR_GPU", "INVALID_IMAGE"])
@pytest.mark.parametrize(
    ("driver_version", "way_out"),
    [
        (13020, r"driver's 13\.2 compiled \(PTX 9\.5\): update the driver, or .*nvfatbin\]==13\.2\.\*'"),
        (12090, r"driver's 12\.9 compiled \(PTX 9\.5\): update the driver to one of CUDA 13 or newer$"),
    ],
)
def test_code_that_the_driver_does_not_know_names_the_way_out(status, driver_version, way_out):
    with pytest.raises(DriverTooOld, match=way_out) as error:
        Module(gpu(f"CUDA_ERROR_{status}", driver_version), CODE)
    assert error.value.status == f"CUDA_ERROR_{status}" and "kernel pkg.kernel" in str(error.value)


def test_another_refusal_stays_what_it_is():
    with pytest.raises(DeviceError, match="OUT_OF_MEMORY") as error:
        Module(gpu("CUDA_ERROR_OUT_OF_MEMORY", 13020), CODE)
    assert type(error.value) is DeviceError


def test_a_refused_image_of_ones_own_is_no_fault_of_the_driver():
    with pytest.raises(DeviceError, match="INVALID_IMAGE") as error:
        Module(gpu("CUDA_ERROR_INVALID_IMAGE", 13020), CODE.fatbin)
    assert type(error.value) is DeviceError


def test_a_gpu_that_is_too_old_is_not_asked():
    with pytest.raises(DeviceTooOld, match=r"8\.0 or newer, this one has 7\.0"):
        Module(gpu("never", 13020, (7, 0)), CODE)


@pytest.mark.parametrize("step", ["the_driver_takes_what_it_knows", "every_kind_of_image_loads"])
def test_a_driver_is_given_a_code_object(run_steps, step):
    run_steps(step, module="code_steps")
