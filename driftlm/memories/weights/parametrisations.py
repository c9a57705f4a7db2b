"""Which parameters learn, by the settings of learning."""

from typing import Any

from driftlm.memories.registries import PARAMETRISATIONS
from driftlm.memories.weights.learning import Learning
from driftlm.models.loading import LanguageModel
from driftlm.models.trainable import Trainable, choose


def chosen_by(learning: Learning, language_model: LanguageModel) -> Trainable:
    """Return the parameters that `learning` lets change, by the entry of the registry that it names."""
    own = PARAMETRISATIONS.settings(learning.learn, learning.options)
    trainable: Trainable = PARAMETRISATIONS.load(learning.learn)(learning, own, language_model)
    return trainable


def of_model(learning: Learning, own: Any, language_model: LanguageModel) -> Trainable:
    """Choose all weights, a LoRA or DoRA, the norms, or nothing, as `models.trainable.choose` has them."""
    return choose(
        language_model,
        learning.learn,
        layers=learning.layer_range(),
        rank=learning.rank,
        targets=learning.target_modules,
        freeze_embeddings=learning.freeze_embeddings,
        seed=learning.seed,
    )
