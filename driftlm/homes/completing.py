"""A prompt continued by what a home has learned: token by token, behind what its sources supply.

Log-probabilities are those of the model, before temperature and top_p. An echo has one for every token of the prompt,
the first behind BOS, which has none itself where it was given. Behind an echo the end token is among the tokens: who
scores by an echo leaves the last one out.

Letters: V vocabulary.
"""

import secrets
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.homes.prompts import Prompt, Role, chatted
from driftlm.memories.base import Memory, Supply
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import end_token

LEAST = -9999.0  # what JSON has for the logarithm of zero
ECHOED = 256  # positions whose logits are made together
TAIL = 4  # tokens of the prompt that are decoded along, as the first token's space depends on them


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        tokens: most of them; None for as many as there is room.
        temperature: 0 takes the likeliest token every time.
        top_p: only the likeliest tokens that have this share of the probability together (Holtzman et al. 2020, §3.1).
        seed: of the sampling; None for one of the system's.
        stop: strings before which the text ends.
        alternatives: likeliest tokens to name at every place; None for no log-probabilities at all.
        strip: leave white space at both ends out.
        echo: begin with the prompt as it was given, its tokens among the others.
    """

    tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    alternatives: int | None = None
    strip: bool = False
    echo: bool = False


@dataclass(frozen=True)
class Token:
    """A token that was chosen: its text, its log-probability in nats, the likeliest ones, and where it begins.

    BOS at the head of an echo has no log-probability.
    """

    text: str
    logprob: float | None
    likeliest: tuple[tuple[str, float], ...]
    offset: int


@dataclass(frozen=True)
class Piece:
    """Text that stands, and the tokens that begin in it, where they were asked for."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What was said, why it ended, what it rests on; numbers of tokens, where an end token does not count."""

    text: str
    tokens: tuple[Token, ...]
    reason: Literal["stop", "length"]
    documents: tuple[tuple[str, float], ...]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Asked:
    """An answer that is to be written.

    Attributes:
        memory: of a home, between two windows.
        prompt: what is continued.
        sampling: how.
        most: tokens at most, where `sampling` names no number.
        say: gets the text in pieces, as soon as nothing can change it any more.
        gone: asked before every token; where it is so, nobody waits for more.
    """

    memory: Memory
    prompt: Prompt
    sampling: Sampling
    most: int
    say: Callable[[Piece], None] = lambda piece: None
    gone: Callable[[], bool] = lambda: False


class NoRoom(DriftError):
    """A prompt leaves no room in the model's positions."""


def turn(
    language_model: LanguageModel, messages: Sequence[tuple[Role, str]], sampling: Sampling
) -> tuple[Prompt, Sampling]:
    """What is written behind a conversation: its prompt, and the sampling without white space at the answer's ends.

    Raises:
        DriftError: as `chatted`.
    """
    return chatted(language_model, messages), replace(sampling, strip=True)


def written(asked: Asked, supply: Supply, cache: Any) -> Generator[list[int], Tensor, Completion]:
    """A prompt continued behind what the sources supply for it.

    Gives the tokens that are to be read behind those it gave before, first of all the prompt's, then one at a time; is
    sent the logits (V,) behind the last of them.

    Args:
        asked: what is to be written.
        supply: of the sources, for this prompt alone.
        cache: keys and values of what the model is modulated by; an echo adds those of the prompt but for its end.

    Raises:
        DriftError: for a prompt that leaves no room in the model's positions; for logits that are no numbers.
    """
    sampling, prompt, language_model = asked.sampling, asked.prompt, asked.memory.language_model
    ids = prompt.ids(supply.texts[0])
    ends, tokenizer = end_tokens(language_model), language_model.tokenizer
    echoed = prompt.given if sampling.echo else 0
    before = len(ids) - echoed
    text = Text(tokenizer, ids[:before][-TAIL:], replace(sampling, stop=()) if sampling.echo else sampling)
    generator = torch.Generator().manual_seed(secrets.randbits(63) if sampling.seed is None else sampling.seed)
    reason: Literal["stop", "length"] = "length"
    count, fed = 0, ids
    room = room_for(language_model, cache.get_seq_length(), len(ids), sampling.tokens, asked.most)
    if sampling.echo:
        if prompt.bos and sampling.alternatives is not None:
            text.waiting.append(Token(tokenizer.decode(ids[:1]), None, (), 0))
        asked.say(echo(language_model, ids, before, text, cache))
        fed, text.sampling = ids[-1:], sampling
    while count < room and not asked.gone():
        logits = yield fed
        chosen = choose(logits, sampling, generator)
        if chosen in ends:
            reason = "stop"
            if sampling.echo:
                text.keep(chosen, logits)
            break
        count, fed = count + 1, [chosen]
        piece, stopped = text.add(chosen, logits)
        if piece.text or piece.tokens:
            asked.say(piece)
        if stopped:
            reason = "stop"
            break
    last = text.rest()
    if last.text or last.tokens:
        asked.say(last)
    return Completion(
        text.said, tuple(text.tokens), "stop" if text.stopped else reason, tuple(supply.documents[0]), len(ids), count
    )


def echo(language_model: LanguageModel, ids: Sequence[int], before: int, text: "Text", cache: Any) -> Piece:
    """The tokens of a prompt behind the first so many, each with its probability; the cache takes all but the last.

    Logits are made for some hundred positions at a time, as a large vocabulary has many.
    """
    pieces = list[Piece]()
    if before > 1:
        all_logits(language_model, ids[: before - 1], cache, 1)
    for start in range(before, len(ids), ECHOED):
        targets = ids[start : start + ECHOED]
        for token, logits in zip(targets, all_logits(language_model, ids[start - 1 : start - 1 + len(targets)], cache)):
            refuse_no_numbers(logits)
            pieces.append(text.add(token, logits)[0])
    return Piece("".join(piece.text for piece in pieces), tuple(token for piece in pieces for token in piece.tokens))


def room_for(language_model: LanguageModel, before: int, prompt: int, asked: int | None, most: int) -> int:
    """Tokens that may be added behind a prefix of some positions and a prompt.

    Raises:
        NoRoom: when there is none, or less than was asked for.
    """
    positions = language_model.positions
    left = most if positions is None else positions - before - prompt
    least = 1 if asked is None else asked
    if left < least:
        raise NoRoom(
            f"the prompt has {prompt} tokens with what the memory puts before it, and {least} more were asked "
            f"for, but the model has {positions} positions, {before} of them taken; shorten one of them."
        )
    return min(left, most) if asked is None else asked


def end_tokens(language_model: LanguageModel) -> set[int]:
    """What ends a text: EOS, and what the model itself ends a turn with."""
    own = getattr(language_model.model.generation_config, "eos_token_id", None)
    return {end_token(language_model), *([own] if isinstance(own, int) else own or [])}


def all_logits(language_model: LanguageModel, ids: Sequence[int], cache: Any, last: int = 0) -> Tensor:
    """Return (L, V) float32 behind each of L tokens that the cache does not hold yet, or behind the last of them."""
    device, before = language_model.device, cache.get_seq_length()
    logits: Tensor = language_model.model(
        input_ids=torch.tensor([list(ids)], device=device),
        position_ids=torch.arange(before, before + len(ids), device=device)[None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=last,
    ).logits[0]
    return logits.float().cpu()


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """A token by its probability `softmax(logits / temperature)`, of the likeliest that have `top_p` of it together.

    Example:
        >>> choose(torch.tensor([0.0, 2.0, 1.0]), Sampling(temperature=0), torch.Generator())
        1
        >>> choose(torch.tensor([0.0, 2.0, 1.0]), Sampling(top_p=0.5), torch.Generator())
        1
    """
    refuse_no_numbers(logits)
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = (logits.double() - logits.max()) / sampling.temperature
    probabilities = scaled.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        probabilities[order[ordered.cumsum(-1) - ordered >= sampling.top_p]] = 0
    return int(torch.multinomial(probabilities, 1, generator=generator))


def refuse_no_numbers(logits: Tensor) -> None:
    """Refuse logits that say nothing."""
    if not bool(logits.isfinite().any()) or bool(logits.isnan().any()):
        raise DriftError("what was learned gives no numbers any more; restore an earlier snapshot of the home.")


class Text:
    """Tokens that become text: nothing is given out that a later token, or a stop string, could still change."""

    def __init__(self, tokenizer: Any, before: Sequence[int], sampling: Sampling) -> None:
        self.tokenizer, self.sampling = tokenizer, sampling
        self.ids, self.start, self.end = list(before), 0, len(before)
        self.decoded = ""  # all of it so far, where characters are whole
        self.given = 0  # characters of it that were dealt with
        self.said = ""
        self.stopped = False
        self.waiting: list[Token] = []
        self.tokens: list[Token] = []

    def add(self, token: int, logits: Tensor) -> tuple[Piece, bool]:
        """What stands now that did not before, and whether a stop string ended the text."""
        self.keep(token, logits)
        self.ids.append(token)
        before, now = self.decode(self.start, self.end), self.decode(self.start, len(self.ids))
        if len(now) > len(before) and not now.endswith("�"):  # else a character may not be whole
            self.decoded += now[len(before) :]
            self.start, self.end = self.end, len(self.ids)
        return self.advance(whole=False), self.stopped

    def keep(self, token: int, logits: Tensor) -> None:
        """A token is to be reported, where that was asked for."""
        if self.sampling.alternatives is not None:
            self.waiting.append(self.described(token, logits, self.sampling.alternatives))

    def rest(self) -> Piece:
        """What was held back, when no token comes any more."""
        if self.stopped:
            return Piece("")
        self.decoded += self.decode(self.start, len(self.ids))[len(self.decode(self.start, self.end)) :]
        return self.advance(whole=True)

    def decode(self, start: int, end: int) -> str:
        """Some of the tokens as text."""
        text: str = self.tokenizer.decode(
            self.ids[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def advance(self, whole: bool) -> Piece:
        """Deal with characters up to a stop string, or to what could become one."""
        places = [place for stop in self.sampling.stop if (place := self.decoded.find(stop, self.given)) >= 0]
        self.stopped = bool(places)
        end = min(places) if places else len(self.decoded) - (0 if whole else self.held())
        text = self.decoded[self.given : end]
        if self.sampling.strip:
            text = text if self.said else text.lstrip()
            kept = text.rstrip()
            end -= 0 if places or whole else len(text) - len(kept)
            text = kept
        self.given = end
        self.said += text
        begun = [token for token in self.waiting if token.offset < end or (whole and not places)]
        self.waiting = [] if places else self.waiting[len(begun) :]
        self.tokens += begun
        return Piece(text, tuple(begun))

    def held(self) -> int:
        """Characters at the end that could begin a stop string."""
        left = self.decoded[self.given :]
        starts = (stop[:size] for stop in self.sampling.stop for size in range(1, len(stop)))
        return max((len(start) for start in starts if left.endswith(start)), default=0)

    def described(self, token: int, logits: Tensor, alternatives: int) -> Token:
        """A token as it is reported."""
        nats = logits.double().log_softmax(-1).clamp(min=LEAST)
        best = nats.topk(min(alternatives, len(nats)))
        likeliest = [(self.tokenizer.decode([id]), value) for id, value in zip(best.indices, best.values.tolist())]
        return Token(self.tokenizer.decode([token]), float(nats[token]), tuple(likeliest), len(self.decoded))
