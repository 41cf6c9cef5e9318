"""A kernel of one's own: ranks wait for each other in compiled code, without the GIL."""

import umem
from umem.kernels import cpu_kernel, fetch_add_i64, load_acquire_i64, pause


@cpu_kernel("int64(int64, int64)")
def arrive(counter, num_ranks):
    """This rank's ticket, once all `num_ranks` have taken one of the word at `counter`."""
    ticket = fetch_add_i64(counter, 0, 1)
    while load_acquire_i64(counter, 0) < num_ranks:
        pause()
    return ticket


def work(space):
    arrivals = space.shared("arrivals", 1, "int64", home=0)
    tickets = space.shared("tickets", space.num_ranks, "int64", home=0)
    space.barrier()  # compiled and mapped in every rank: the kernel itself has no deadline
    space.store(tickets.address_of(space.rank), arrive(arrivals.address, space.num_ranks), "int64")
    space.barrier()
    return [space.load(tickets.address_of(rank), "int64") for rank in range(space.num_ranks)]


if __name__ == "__main__":
    tickets = umem.launch(work, ranks=2)
    assert sorted(tickets) == [0, 1], tickets
    print(f"tickets {sorted(tickets)} were each given out once")
