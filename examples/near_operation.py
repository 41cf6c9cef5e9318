"""A near operation: the look-up is shipped to the home of the table, and only the rows come back."""

import numpy as np

import umem

NUM_ROWS, ROW_WORDS = 100, 4


def work(space):
    table = space.shared("table", (NUM_ROWS, ROW_WORDS), "float32", home=space.num_ranks - 1)
    if space.rank == 0:
        rows = np.arange(NUM_ROWS * ROW_WORDS, dtype=np.float32).reshape(NUM_ROWS, ROW_WORDS)
        space.put(table.address, rows)
    space.barrier()
    indices = np.array([7, 0, 99], np.int64)
    found = np.empty((len(indices), ROW_WORDS), np.float32)
    space.near.gather(found, table.address, NUM_ROWS, indices)
    return found[:, 0].tolist()


if __name__ == "__main__":
    firsts = umem.launch(work, ranks=2)
    assert firsts == [28.0, 0.0, 396.0], firsts
    print(f"rows 7, 0 and 99 begin with {firsts}")
