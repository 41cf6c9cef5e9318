"""torch's allocations in the other rank's memory: `umem run -n 2 examples/torch_pool.py`."""

import torch

import umem
import umem.torch

with umem.init() as space:
    umem.torch.install(space)
    neighbour = (space.rank + 1) % space.num_ranks
    with umem.torch.use_pool(home=neighbour):
        weight = torch.ones(64, 64)
        result = weight @ weight
    assert umem.torch.home(result) == neighbour
    assert bool((result == 64).all())
    if space.rank == 0:
        print(f"a product of tensors in the memory of rank {neighbour}: {result[0, 0].item():.0f} everywhere")
    del weight, result
