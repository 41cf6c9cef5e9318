"""Trains a small model on all ranks: `torchrun --nproc-per-node 2 examples/torch_ddp.py`."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import umem.torch  # makes torch.distributed know the backend "umem"

dist.init_process_group("umem")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.Generator().manual_seed(dist.get_rank())
for _ in range(100):
    inputs = torch.randn(32, 64, generator=data)
    loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
losses = [torch.empty(()) for _ in range(dist.get_world_size())]
dist.all_gather(losses, loss.detach())
if dist.get_rank() == 0:
    print(f"{len(losses)} ranks have learnt to add: the loss is below 0.001: {max(losses).item() < 0.001}")
dist.destroy_process_group()
