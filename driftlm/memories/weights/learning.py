"""The settings of a memory in weights; no heavy import."""

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from driftlm.core.errors import DriftError
from driftlm.core.registry import held, kept, options_of
from driftlm.memories.registries import PARAMETRISATIONS, PROTECTIONS, RULES, SALIENCES

Cadence = Literal["skip", "accumulate"]
Reset = Literal["never", "document"]
OnOff = Literal["on", "off"]
if TYPE_CHECKING:
    Learn = str
    Saliences = str
    Protect = str
    LearningOptions = Any
else:
    Learn, Saliences, Protect = PARAMETRISATIONS.choice(), SALIENCES.choice(), PROTECTIONS.choice()
    LearningOptions = options_of("LearningOptions", __name__, RULES, PARAMETRISATIONS, SALIENCES, PROTECTIONS)
# On the first 10,000 tokens of the two development books (recipes/results.jsonl) Adam at 1e-4 and 3e-4 is within 0.003
# bits per byte, SGD from 0.03 to 0.1 within 0.01, RMS at 1e-4 and 3e-4 within 0.01. Of rates that are alike on books,
# SGD and Adam take the higher, which text unlike the training needs, RMS the lower, which is safer there. No rate of
# these suits every model; the relative rule's do (docs/log.md, 2026-12-01), and it is the default.
DEFAULT_RATES = {"sgd": 0.05, "adam": 3e-4, "relative": 0.03, "rms": 1e-4}
LOW_RANK_RATES = {"relative": 0.06}  # what changes in few directions alone bears twice as much
# All weights with Adam, and LoRA with a tenfold rate: on books the best is near the lower end (recipes/results.jsonl:
# 1e-4, LoRA 3e-3), on text unlike the training ten times that or more. Steps of about 3 keep any rate between two
# experts close to one of them, and a sixth expert costs 0.2 nats over a fifth: once, however long the stream.
DEFAULT_EXPERTS = "0,1e-4,3e-4,1e-3,3e-3,1e-2"
LARGEST = 1e30  # well inside what float32 tensors can be multiplied by


@dataclass(frozen=True)
class Learning:
    """What changes, by which rule, how often.

    Attributes:
        learn: Change `all`, `lora`, `dora` or `norms`, or `none` for the static model.
        layers: Change only the transformer layers `a-b` (from 0, both included); empty for no restriction.
        rank: Give LoRA and DoRA this rank.
        target_modules: Change `attention`, `mlp`, `all-linear` or module names with commas, with LoRA and DoRA.
        freeze_embeddings: Keep the input embeddings (and a head tied to them) as they are.
        rule: Step by `relative` (Adam, by rates in proportion to the size of what changes), `adam`, `sgd` or `rms`, or
            by a `mixture`: several learners at once, weighed by how well each predicts. Empty for `relative`, or for
            `adam` where a learning rate is given, since such a number is Adam's as a rule.
        learning_rate: Learn at the rate η; None takes the rule's default.
        experts: Mix experts of these rates with commas, each Adam's or as `RULE:RATE`; 0 is the static model.
        share: Let another expert of a mixture take over later in the stream.
        momentum: Step with momentum μ in SGD.
        decay: Pull to the prior by λ in RMS.
        epsilon: Add ε to the scale of RMS.
        statistics: Read the gradient statistics of RMS from this file; the bundled model has its own.
        every: Learn on windows k, 2k, ... of the stream.
        cadence: Treat the other windows so: `skip` them, or `accumulate` their gradients.
        reset: Go back to the prior `never` or at the end of each `document`.
        guard: Go back when learning diverges: `on` or `off`.
        salience: Learn from all tokens alike (`uniform`), from names and dates (`spans`), from words that are rare in
            the documents before (`tfidf`), or as a meta-trained network says (`camels`).
        tagger: Find `spans` by built-in `rules`, or by `spacy` or `spacy:MODEL`.
        salience_network: Read the network of `camels` from a folder that `driftlm train salience` wrote; empty for the
            bundled one, which knows the world of facts.
        protect: Protect what was known by this; `none` leaves learning as it is.
        seed: Seed the random half of a new LoRA.
        options: What entries of other packages bring.
    """

    learn: Learn = "all"
    layers: str = ""
    rank: int = 8
    target_modules: str = "all-linear"
    freeze_embeddings: bool = False
    rule: str = ""
    learning_rate: float | None = None
    experts: str = ""
    share: bool = False
    momentum: float = 0.0
    decay: float = 0.0
    epsilon: float = 1e-4
    statistics: str = ""
    every: int = 1
    cadence: Cadence = "skip"
    reset: Reset = "never"
    guard: OnOff = "on"
    salience: Saliences = "uniform"
    tagger: str = "rules"
    salience_network: str = ""
    protect: Protect = "none"
    seed: int = 0
    options: LearningOptions = field(default_factory=lambda: LearningOptions())

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", held(self.options, LearningOptions))
        if not self.rule:
            object.__setattr__(self, "rule", "relative" if self.learning_rate is None else "adam")
        chosen = (
            ("learn", Learn),
            ("cadence", Cadence),
            ("reset", Reset),
            ("guard", OnOff),
            ("salience", Saliences),
            ("protect", Protect),
        )
        for name, choices in chosen:
            if getattr(self, name) not in get_args(choices):
                raise DriftError(
                    f"`Learning.{name}` was {getattr(self, name)!r}; give one of {', '.join(get_args(choices))}."
                )
        if self.every < 1:
            raise DriftError(
                f"`Learning.every` was {self.every}; give 1 to learn on every window, 2 for every other, ..."
            )
        for name in ("learning_rate", "momentum", "decay", "epsilon"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= LARGEST:
                raise DriftError(f"`Learning.{name}` was {value}; give a number from 0 to {LARGEST:.0e}.")
        if self.salience != "camels" and self.salience_network:
            raise DriftError(
                f"`Learning.salience_network` was {self.salience_network!r}, but `Learning.salience` {self.salience} "
                f"has none; "
                f"give camels."
            )
        if self.tagger != "rules" and self.salience != "spans":
            raise DriftError(
                f"`Learning.tagger` was {self.tagger!r}, but `Learning.salience` {self.salience} has none; give spans."
            )
        self.layer_range()
        if self.rule == "mixture":
            if self.learning_rate is not None:
                raise DriftError(
                    f"`Learning.learning_rate` was {self.learning_rate}, but `Learning.rule` mixture weighs several; "
                    f"give `Learning.experts`."
                )
            self.strategies()
        elif self.experts or self.share:
            raise DriftError(
                f"`Learning.experts` and `Learning.share` belong to a mixture, not to `Learning.rule` {self.rule}; "
                f"give `Learning.rule` mixture, or leave "
                f"them out."
            )

    def described(self) -> dict[str, Any]:
        """Return the settings as a folder keeps them: of other packages' options, those of the entries in use."""
        rules = [one.rule for one in self.strategies()] if self.rule == "mixture" else [self.rule]
        facts = asdict(self)
        facts["options"] = kept(facts["options"], (self.learn, *rules, self.salience, self.protect))
        return facts

    def layer_range(self) -> tuple[int, int] | None:
        """Return `layers` as two numbers."""
        if not self.layers:
            return None
        first, dash, last = self.layers.partition("-")
        if not (first.isdigit() and (last.isdigit() or not dash)):
            raise DriftError(f"`Learning.layers` was {self.layers!r}; give a-b, such as 2-5, or one number.")
        return int(first), int(last or first)

    def rate(self) -> float:
        """Return η: the one given, or the rule's default."""
        if self.learning_rate is not None:
            return self.learning_rate
        rates = DEFAULT_RATES | (LOW_RANK_RATES if self.learn in ("lora", "dora") else {})
        return rates.get(self.rule, 1e-4)

    def settled(self) -> "Learning":
        """The same with what was left to a default written out."""
        if self.rule == "mixture":
            return replace(self, experts=self.experts or DEFAULT_EXPERTS)
        return replace(self, learning_rate=self.rate())

    def strategies(self) -> list["Learning"]:
        """The experts of a mixture: these settings, each with a rule and a rate of its own.

        Example:
            >>> [expert.name() for expert in Learning(rule="mixture", experts="0, 3e-4, sgd:0.05").strategies()]
            ['adam:0', 'adam:0.0003', 'sgd:0.05']
        """
        found = []
        for one in (self.experts or DEFAULT_EXPERTS).split(","):
            rule, _, rate = one.strip().rpartition(":")
            try:
                number = float(rate)
            except ValueError:
                raise DriftError(
                    f"`Learning.experts` named {one.strip()!r}; give rates with commas, such as 0,1e-3,sgd:0.05."
                ) from None
            if not 0 <= number <= LARGEST:
                raise DriftError(
                    f"`Learning.experts` named {one.strip()!r}, whose rate is {number}; give rates from 0 to "
                    f"{LARGEST:.0e}."
                )
            found.append(replace(self, rule=rule or "adam", learning_rate=number, experts="", share=False))
        return found

    def name(self) -> str:
        """Rule and rate, to tell experts apart.

        Example:
            >>> Learning(rule="sgd", learning_rate=0.05).name()
            'sgd:0.05'
        """
        return f"{self.rule}:{self.rate():g}"


FROZEN = Learning("none")
