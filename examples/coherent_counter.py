"""A counter in cached memory: each rank adds in a copy of its own, and no addition is lost."""

import umem

NUM_ADDS = 1000


def count(space):
    counter = space.shared("counter", 1, "int64", home=0, cache="back")
    for _ in range(NUM_ADDS):
        space.fetch_add(counter.address, 1)
    space.barrier()
    return space.load(counter.address, "int64")


if __name__ == "__main__":
    ranks = 2
    value = umem.launch(count, ranks=ranks)
    assert value == ranks * NUM_ADDS, value
    print(f"{ranks} ranks counted to {value} in cached memory")
