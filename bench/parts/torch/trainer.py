"""Two models and their training, whose results do not depend on where their memory is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from umem.errors import UnknownName

NUM_BATCHES = 8
LEARNING_RATE = 1e-3

PIXELS, HIDDEN, CLASSES, IMAGES = 784, 512, 10, 64
VOCABULARY, _WIDTH, HEADS, LAYERS, TOKENS, SEQUENCES = 256, 128, 4, 2, 64, 8

Batch = tuple[torch.Tensor, torch.Tensor]


def mlp() -> list[nn.Module]:
    """Three layers over images of 784 pixels."""
    widths = (PIXELS, HIDDEN, HIDDEN)
    hidden = [nn.Sequential(nn.Linear(a, b), nn.GELU()) for a, b in pairwise(widths)]
    return [*hidden, nn.Linear(HIDDEN, CLASSES)]


def images(generator: torch.Generator) -> Batch:
    """A batch for the MLP."""
    return (
        torch.randn(IMAGES, PIXELS, generator=generator),
        torch.randint(CLASSES, (IMAGES,), generator=generator),
    )


def transformer() -> list[nn.Module]:
    """Two encoder layers with dropout over sequences of 64 tokens."""
    layers = [nn.TransformerEncoderLayer(_WIDTH, HEADS, 4 * _WIDTH, batch_first=True) for _ in range(LAYERS)]
    return [nn.Embedding(VOCABULARY, _WIDTH), *layers, nn.Linear(_WIDTH, VOCABULARY), nn.Flatten(0, 1)]


def sequences(generator: torch.Generator) -> Batch:
    """A batch for the transformer: tokens, and others to predict."""
    tokens = torch.randint(VOCABULARY, (2, SEQUENCES, TOKENS), generator=generator)
    return tokens[0], tokens[1].flatten()


_MODELS: dict[str, tuple[Callable[[], list[nn.Module]], Callable[[torch.Generator], Batch]]] = {
    "mlp": (mlp, images),
    "transformer": (transformer, sequences),
}


class Trainer:
    """A model, AdamW and data, all from `seed`; `num_steps` have been done.

    Random numbers of dropout are the trainer's own: call `resume` before a row of steps, and `pause` after.
    With `recomputes` the blocks of the model keep no activations and compute them again in backward.
    """

    def __init__(self, model: str, seed: int, recomputes: bool = False):
        if model not in _MODELS:
            raise UnknownName("model", model, list(_MODELS))
        make, batch = _MODELS[model]
        torch.manual_seed(seed)
        self.model = nn.Sequential(*make())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), LEARNING_RATE)
        generator = torch.Generator().manual_seed(seed)
        self.batches = [batch(generator) for _ in range(NUM_BATCHES)]
        self.recomputes = recomputes
        self.num_steps = 0
        self._random = torch.get_rng_state()

    def resume(self) -> None:
        """Go on with this trainer's random numbers."""
        torch.set_rng_state(self._random)

    def pause(self) -> None:
        """Keep the random numbers for `resume`."""
        self._random = torch.get_rng_state()

    def loss(self) -> torch.Tensor:
        """Forward."""
        inputs, labels = self.batches[self.num_steps % NUM_BATCHES]
        for block in self.model:
            inputs = checkpoint(block, inputs, use_reentrant=False) if self.recomputes else block(inputs)
        return cross_entropy(inputs, labels)

    def finish(self, loss: torch.Tensor) -> None:
        """Backward and the optimizer's step."""
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.num_steps += 1

    def step(self) -> None:
        """One step of training."""
        self.finish(self.loss())

    def digest(self) -> bytes:
        """A hash of all weights."""
        found = hashlib.sha256()
        for parameter in self.model.parameters():
            found.update(parameter.detach().numpy().tobytes())
        return found.digest()

    def moments(self) -> list[torch.Tensor]:
        """The state of AdamW that is as large as the weights."""
        states = self.optimizer.state.values()
        return [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]
