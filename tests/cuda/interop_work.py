"""What ranks of test_interop.py do: other libraries over arrays of the space, on the memory of a GPU and of hosts."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda
from numba_steps import weighted

import umem
from umem.errors import (
    ArgumentTypeError,
    CupyMissing,
    DeviceMissing,
    NotMappable,
)
from umem.space import dlpack

COUNT = 1000


def of_homes(space, dtype="float32"):
    """(home, array) of every kind of memory: this rank's, its neighbour's, a host's. All are freed with the world."""
    for home in ("local", (space.rank + 1) % space.num_ranks, "host", "striped"):
        yield home, space.empty(COUNT, dtype, home=home)


def is_gpu_rank(space):
    return space.segments.gpu is not None


def numba_takes_arrays(space):
    """numba.cuda's own kernels compute on arrays of the space, as they are."""
    if not is_gpu_rank(space):
        return
    cuda.select_device(space.gpu.device.ordinal)
    data = np.arange(COUNT, dtype=np.float32)
    for home, array in of_homes(space):
        if not hasattr(array, "__cuda_array_interface__"):
            assert any(rank not in space.segments.map.gpu_ranks for rank in range(space.num_ranks)), home
            assert home == "striped", home
            continue
        array.write(data)
        result = space.empty(COUNT, "float32")
        stream = cuda.stream()
        weighted[8, 128, stream](array, array, result)
        stream.synchronize()
        np.testing.assert_array_equal(result.read(), 3 * data, err_msg=str(home))
        weighted[8, 128, stream](result, array, array)
        stream.synchronize()
        np.testing.assert_array_equal(array.read(), 7 * data, err_msg=str(home))


def the_interface_says_where(space):
    for _, array in of_homes(space, "int16"):
        if not is_gpu_rank(space):
            assert not hasattr(array, "__cuda_array_interface__")
            with pytest.raises(AttributeError, match="--device cuda"):
                array.__cuda_array_interface__  # noqa: B018
            continue
        if hasattr(array, "__cuda_array_interface__"):
            told = array.__cuda_array_interface__
            assert told["data"] == (space.pointer(array.address), False)
            assert (told["shape"], told["typestr"], told["version"]) == ((COUNT,), "<i2", 3)
            assert told["strides"] is told["stream"] is None
    assert not hasattr(space.empty(4, "bfloat16"), "__cuda_array_interface__")


def capsule_of(capsule, name):
    """The struct of a capsule that nobody has consumed."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return dlpack.CAPSULES[name].from_address(get(capsule, name))


def capsules_describe_memory_of_the_gpu(space):
    if not is_gpu_rank(space):
        return
    ordinal = space.gpu.device.ordinal
    for dtype, code, bits in (("float64", 2, 64), ("bfloat16", 4, 16), ("uint8", 1, 8), ("bool", 6, 8)):
        array = space.empty((2, 3, 5), dtype)
        assert array.__dlpack_device__() == (dlpack.K_CUDA, ordinal)
        for name, version in ((b"dltensor_versioned", (1, 1)), (b"dltensor", None), (b"dltensor", (0, 8))):
            capsule = array.__dlpack__(stream=1, max_version=version)
            made = capsule_of(capsule, name)
            tensor = made.dl_tensor
            assert tensor.data == space.pointer(array.address) and tensor.byte_offset == 0
            assert (tensor.device_type, tensor.device_id) == (2, ordinal)
            assert (tensor.code, tensor.bits, tensor.lanes, tensor.ndim) == (code, bits, 1, 3)
            assert tensor.shape[:3] == [2, 3, 5] and tensor.strides[:3] == [15, 5, 1]
            if name == b"dltensor_versioned":
                assert (made.major, made.minor, made.flags) == (1, 0, 0)
            consumed(capsule, name, made)
            del capsule
    with pytest.raises(BufferError, match="not copied"):
        array.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="works on"):
        array.__dlpack__(dl_device=(2, ordinal + 7))
    with pytest.raises(ArgumentTypeError, match="DLPack has no dtype"):
        space.empty(3, "datetime64[s]").__dlpack__()


def consumed(capsule, name, made):
    """Do what a consumer does: rename the capsule, and free by the deleter."""
    deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(made.deleter)
    rename = ctypes.pythonapi.PyCapsule_SetName
    rename.argtypes = [ctypes.py_object, ctypes.c_char_p]
    rename(capsule, USED[name])
    deleter(ctypes.addressof(made))


USED = {name: b"used_" + name for name in dlpack.CAPSULES}


def host_memory_is_a_tensor_of_the_cpu(space):
    array = space.empty((4, 6), "int32", home="host")
    array.write(np.arange(24).reshape(4, 6))
    assert array.__dlpack_device__() == (dlpack.K_CPU, 0)
    seen = np.from_dlpack(array)
    assert seen.ctypes.data == array.address and np.array_equal(seen, array.numpy())
    del seen
    if is_gpu_rank(space):
        ordinal = space.gpu.device.ordinal
        capsule = array.__dlpack__(dl_device=(dlpack.K_CUDA, ordinal), max_version=(1, 0))
        tensor = capsule_of(capsule, b"dltensor_versioned").dl_tensor
        assert (tensor.data, tensor.device_type) == (array.address, dlpack.K_CUDA)
    else:
        with pytest.raises(BufferError, match="--device cuda"):
            array.__dlpack__(dl_device=(dlpack.K_CUDA, 0))
    if importlib.util.find_spec("torch") is not None:
        import torch

        tensor = torch.from_dlpack(array)
        tensor += 1
        assert tensor.data_ptr() == array.address == array.torch().data_ptr()
        assert np.array_equal(array.numpy(), np.arange(1, 25).reshape(4, 6))


def the_libraries_are_asked_by_protocol(space):
    """CuPy and torch's CUDA side stand in here: they get the array itself, which says where it is."""
    array = space.empty(8, "float32", home=0)
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", None)
        with pytest.raises(CupyMissing, match="pip install cupy"):
            array.cupy()
        cupy = SimpleNamespace(asarray=lambda given: taken.append(given.__cuda_array_interface__["data"][0]))
        patch.setitem(sys.modules, "cupy", cupy)
        torch = SimpleNamespace(
            from_numpy=lambda given: given,  # asked whether it has the dtype
            from_dlpack=lambda given: taken.append(given.__dlpack_device__()),
        )
        patch.setitem(sys.modules, "torch", torch)
        if not is_gpu_rank(space):
            with pytest.raises(DeviceMissing, match="--device cuda"):
                array.cupy()
            with pytest.raises(NotMappable, match="read/write"):
                array.torch()  # rank 0 has a GPU
            return
        array.cupy()
        array.torch()
        assert taken == [space.pointer(array.address), (dlpack.K_CUDA, space.gpu.device.ordinal)]
        with pytest.raises(NotMappable, match=r"Array.cupy\(\) or Array.torch\(\)"):
            array.numpy()
        with pytest.raises(ArgumentTypeError, match="DLPack has one for bfloat16"):
            space.empty(2, "bfloat16").cupy()


CHECKS = (
    numba_takes_arrays,
    the_interface_says_where,
    capsules_describe_memory_of_the_gpu,
    host_memory_is_a_tensor_of_the_cpu,
    the_libraries_are_asked_by_protocol,
)


def run_all(space: umem.Space):
    """Every check that has passed, in turn."""
    passed = []
    for check in CHECKS:
        check(space)
        space.barrier()
        passed.append(check.__name__)
    return passed
