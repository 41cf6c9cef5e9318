"""Trains a small network on scikit-learn's digits with everything in another rank's memory.

    .venv/bin/python scripts/train_digits.py [--epochs N]         needs: scripts/setup torch dev

Rank 0 trains the same network twice: in torch's own memory, then with data, weights, gradients, activations
and optimizer state at rank 1. It prints both accuracies and where the bytes lived, and ends with 1 where the
weights differ in a single bit.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy

import umem
from umem.units import format_size

NEIGHBOUR = 1
BATCH = 64
SEED = 1
TIMEOUT_S = 3600.0  # rank 1 lends its memory, and waits
Places = dict[str, Counter[str]]  # kind of tensors -> home -> bytes


@dataclass(frozen=True)
class Trained:
    """The result of a training, and the bytes at each home after its last step."""

    accuracy: float
    weights: tuple[bytes, ...]
    places: Places


def network() -> nn.Module:
    """Two convolutions and a linear layer, for images of 8 x 8."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(512, 10),
    )


def train(num_epochs: int) -> Trained:
    """Train where torch allocates at the moment."""
    torch.manual_seed(SEED)
    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32)
    parts = train_test_split(images, torch.tensor(digits.target), test_size=0.25, random_state=SEED)
    train_images, test_images, train_labels, test_labels = parts
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    places: Places = {}
    for _ in range(num_epochs):
        for batch in torch.randperm(len(train_images)).split(BATCH)[:-1]:  # full ones
            optimizer.zero_grad()
            with saved_tensors() as saved:
                loss = cross_entropy(model(train_images[batch]), train_labels[batch])
            loss.backward()
            optimizer.step()
            places = where(model, optimizer, saved)
    model.eval()
    with torch.no_grad():
        accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
    places["data"] = by_home([train_images, test_images])
    return Trained(accuracy, tuple(bytes(weight.detach().numpy()) for weight in model.parameters()), places)


@contextmanager
def saved_tensors() -> Iterator[list[torch.Tensor]]:
    """Context of a forward pass that yields the tensors that autograd saves for backward: activations, and weights."""
    saved: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield saved


def where(model: nn.Module, optimizer: torch.optim.Optimizer, saved: list[torch.Tensor]) -> Places:
    """Bytes of all tensors that training keeps, by kind and home. `saved` are those of autograd."""
    weights = list(model.parameters())
    addresses = {weight.data_ptr() for weight in weights}
    return {
        "weights": by_home(weights),
        "gradients": by_home(weight.grad for weight in weights if weight.grad is not None),
        "activations": by_home(tensor for tensor in saved if tensor.data_ptr() not in addresses),
        "optimizer state": by_home(chain.from_iterable(state.values() for state in optimizer.state.values())),
    }


def by_home(tensors: Iterable[torch.Tensor]) -> Counter[str]:
    """Bytes of `tensors` at each home, each storage once."""
    found: Counter[str] = Counter()
    for storage in {tensor.data_ptr(): tensor for tensor in tensors}.values():
        rank = umem.torch.home(storage)
        found["torch's own memory" if rank is None else f"rank {rank}"] += storage.nbytes
    return found


def work(space: umem.Space, num_epochs: int) -> tuple[Trained, Trained] | None:
    """Every rank runs this; rank 0 trains."""
    trained = None
    if space.rank == 0:
        torch.set_num_threads(1)
        umem.torch.install(space)
        plain = train(num_epochs)
        with umem.torch.use_pool(home=NEIGHBOUR):
            trained = plain, train(num_epochs)
    space.barrier(TIMEOUT_S)
    return trained


def main() -> int:
    """Train twice and print both results; returns 1 where they differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    epochs = parser.parse_args().epochs
    plain, pooled = umem.launch(work, ranks=2, segment="256M", args=(epochs,))
    for name, one in (("without the pool", plain), ("in the pool", pooled)):
        print(f"{name}: accuracy {one.accuracy:.4f} after {epochs} epochs")
        for what, homes in one.places.items():
            print(
                f"  {what:<16}", ", ".join(f"{format_size(size)} at {home}" for home, size in homes.items())
            )
    is_equal = plain.weights == pooled.weights
    print("weights: bit-equal" if is_equal else "weights: DIFFERENT")
    return int(not is_equal)


if __name__ == "__main__":
    sys.exit(main())
