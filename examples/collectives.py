"""Averages a vector over all ranks, and gathers what each has: `umem run -n 4 examples/collectives.py`."""

import numpy as np

import umem

with umem.init() as space:
    team = umem.Team(space)
    gradient = np.full(1000, float(space.rank))
    team.all_reduce(gradient, op="avg")
    ranks = np.empty(team.size, np.int64)
    team.all_gather(ranks, np.array([space.rank]))
    if space.rank == 0:
        print(f"the average of ranks {ranks.tolist()} is {gradient[0]}")
    team.close()
