"""CaMeLS: a small network weighs tokens, meta-trained so that a gradient step on a document helps to answer about it.

Source: Hu et al. 2023, "Meta-Learning Online Adaptation of Language Models" (arXiv 2305.15076), section 3.
Letters: S tokens, D width, H hidden width.
"""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from driftlm.core.errors import DriftError
from driftlm.memories.weights.prior import Prior
from driftlm.models.loading import LanguageModel, load
from driftlm.streams.windows import Window

WEIGHTS, FACTS = "salience.safetensors", "salience.json"
BUNDLED = Path(__file__).parent / "bundled"  # for the bundled model, trained on the world of facts
SHARPNESS = 3.0  # β of the softplus


class SalienceNetwork(nn.Module):
    """Weigh by w = softplus_3(fc2(GELU(fc1(h)))), h the hidden state at the token itself; ln 2 / 3 before anything is
    learned.

    Example:
        >>> network = SalienceNetwork(width=8)
        >>> network(torch.randn(2, 8)).tolist()  # doctest: +ELLIPSIS
        [0.2310..., 0.2310...]
    """

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, 1)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (..., S, D) -> (..., S), above 0."""
        return F.softplus(self.fc2(F.gelu(self.fc1(hidden))), beta=SHARPNESS)[..., 0]

    def save(self, folder: Path, reader: LanguageModel) -> None:
        """Weights, and which model's hidden states they weigh."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().cpu() for name, value in self.state_dict().items()}, folder / WEIGHTS)
        facts = {"language_model": reader.fingerprint, "name": reader.name, "hidden": self.fc1.out_features}
        (folder / FACTS).write_text(json.dumps(facts | {"width": self.fc1.in_features}, indent=1) + "\n")


@torch.no_grad()
def hidden_states(reader: LanguageModel, ids: Tensor) -> Tensor:
    """Last hidden states of a frozen model, (L,) -> (L, D)."""
    states: Tensor = reader.model.base_model(input_ids=ids[None], use_cache=False)[0][0]
    return states


def load_network(folder: str | Path) -> tuple[SalienceNetwork, dict[str, Any]]:
    """What `SalienceNetwork.save` left, and its facts.

    Raises:
        DriftError: for a folder without a network.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / FACTS).read_text())
        network = SalienceNetwork(facts["width"], facts["hidden"])
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DriftError(
            f"{folder} holds no salience network; give `Learning.salience_network` a folder that `driftlm train "
            f"salience` wrote."
        ) from error
    return network.eval().requires_grad_(False), facts


class Camels:
    """Weights of a meta-trained network over the hidden states of a model that does not learn.

    That model is the prior of the memory itself, where the network was trained for it. Otherwise it is the one it was
    trained for, a proxy, which must have the memory's tokenizer.
    """

    def __init__(
        self, network: SalienceNetwork, reader: LanguageModel, frozen: Any = nullcontext, context: int = 512
    ) -> None:
        self.network, self.reader, self.context = network.to(reader.device), reader, context
        self.frozen: Any = (
            frozen  # makes the context in which the reader's parameters are those that it was loaded with
        )

    @staticmethod
    def load(folder: str | Path, language_model: LanguageModel, prior: Prior, context: int) -> "Camels":
        """The network of a folder, or the bundled one where none is named, for a memory's model.

        Raises:
            DriftError: where the proxy has another tokenizer.
        """
        folder = folder or BUNDLED
        network, facts = load_network(folder)
        if language_model.goes_by(facts["language_model"]):
            return Camels(network, language_model, prior.in_force, context)
        proxy = load(facts["name"], device=str(language_model.device))
        if proxy.tokenizer.get_vocab() != language_model.tokenizer.get_vocab():
            raise DriftError(
                f"camels weighs tokens by a trained network, and the salience network {folder} weighs those of "
                f"{facts['name']!r}, whose tokenizer is not that of {language_model.name!r}; train one for this model "
                f"with `driftlm train salience` and give its folder as `Learning.salience_network`, or weigh by "
                f"uniform, spans or tfidf, which need no training."
            )
        return Camels(network, proxy, nullcontext, context)

    @torch.no_grad()
    def weights(self, window: Window) -> Tensor:
        """Return (S,) float32: a token's hidden state has seen the token and what came before."""
        ids = torch.tensor((*window.inputs, window.targets[-1])[-self.context :], device=self.reader.device)
        frozen: AbstractContextManager[None] = self.frozen()
        with frozen:
            states = hidden_states(self.reader, ids)[-window.new :].float()
        weights: Tensor = self.network(states)
        return weights

    def read(self, window: Window) -> None:
        """Nothing is kept of a window."""

    def finish(self) -> None:
        """Nor of a document."""

    def reset(self) -> None:
        """It never changes."""

    def state(self) -> dict[str, Any]:
        """None."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """It never changes."""
