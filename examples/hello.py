"""One word that every rank adds to: `umem run -n 2 examples/hello.py`, or by torchrun, mpirun or srun."""

import umem

with umem.init() as space:
    last = space.num_ranks - 1
    total = space.shared("total", 1, "int64", home=last)  # in the memory of the last rank
    space.fetch_add(total.address, space.rank + 1)  # the same address in every rank
    space.barrier()
    value = space.load(total.address, "int64")
    expected = space.num_ranks * (space.num_ranks + 1) // 2
    assert value == expected, f"{value} instead of {expected}"
    if space.rank == 0:
        print(f"hello from {space.num_ranks} ranks: the sum is {value}")
