"""One kernel, whatever a rank works on: the CPU, or a GPU where UMEM_DEVICE=cuda says so."""

import numpy as np

import umem
from umem.kernels import fetch_add_i64, lane_index, load_f32, num_lanes, store_f32


@umem.kernel
def halve(base, num_elements, num_done):
    """Halve float32 elements; lanes take them in turn, and say in one word how many they did."""
    done, i = 0, lane_index()
    while i < num_elements:
        store_f32(base, i, load_f32(base, i) / 2)
        done += 1
        i += num_lanes()
    fetch_add_i64(num_done, 0, done)


def work(space):
    own = space.empty(1000, "float32")  # on a GPU rank: memory of its GPU
    own.write(np.arange(1000))
    done = space.empty(1, "int64")
    space.store(done.address, 0, "int64")
    space.launch(halve, 4, 64, own, own.size, done)  # on a GPU: 4 blocks of 64 threads; on the CPU: one lane
    space.synchronize()
    assert np.array_equal(own.read(), np.arange(1000, dtype=np.float32) / 2)
    return space.load(done.address, "int64")


if __name__ == "__main__":
    print(f"each of 2 ranks halved {umem.launch(work, ranks=2)} elements on its device")
