"""What backpropagation dropout saves: bytes kept for the backward pass of the documents, with and without it.

    python -m benchmarks.backpropagation_dropout [--threads 2] [--documents 16] [--words 150] [--kept 0.25]

Counted are the tensors that autograd saves while documents become vectors, each storage once and weights left out: what
a device must hold beside the networks. Through the states of a frozen language model no gradient flows, so that only a
small network's are kept; through an encoder-decoder that learns as a whole, all of its own.
"""

import argparse
import random
from collections.abc import Callable

import torch
from torch import Tensor

from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import BankTraining
from driftlm.models.loading import load
from driftlm.training.batches import fact_batches
from driftlm.training.meta_training import Trainer

GOAL = 1.1  # x the kept share


def saved_bytes(run: Callable[[], Tensor], weights: set[int]) -> int:
    """Bytes that autograd keeps for the backward pass of what `run` returns, storages of `weights` left out."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    # While the result lives, so do the tensors: no address stands for two of them.
    assert result.requires_grad
    return sum(one.untyped_storage().nbytes() for address, one in kept.items() if address not in weights)


def saved_for_documents(networks: BankNetworks, rows: list[list[int]], kept: float) -> int:
    """The same for the amortization of token rows, `kept` of which hold a graph."""
    trainer = Trainer(networks.train(), BankTraining(kept=kept), fact_batches(2, 0))
    weights = {weight.untyped_storage().data_ptr() for weight in networks.parameters()}
    return saved_bytes(lambda: trainer.amortized(rows, random.Random(0)), weights)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--documents", type=int, default=16)
    arguments.add_argument("--words", type=int, default=150)
    arguments.add_argument("--kept", type=float, default=0.25)
    options, _ = arguments.parse_known_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    networks = BankNetworks(load())
    networks.language_model.model.requires_grad_(False)
    rows = [row for _ in range(options.documents) for row in networks.reader.parts("word " * options.words)]
    every, few = (saved_for_documents(networks, rows, share) for share in (1.0, options.kept))
    tokens = sum(map(len, rows))
    print(f"\nkept for the backward pass of {options.documents} documents of {tokens:,} tokens in all")
    print(f"{'all with a gradient':24}{every / 2**20:8.1f} MiB{every / tokens / 1024:8.1f} KiB a token")
    print(f"{f'{options.kept:.0%} of them':24}{few / 2**20:8.1f} MiB{few / every:8.3f} of all", end="")
    print(f" (goal <= {GOAL * options.kept:.3f})")


if __name__ == "__main__":
    main()
