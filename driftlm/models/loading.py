"""Model and tokenizer from a folder, a GGUF file or a hub name, and a clear word about what cannot work."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from driftlm.core.errors import DriftError, first_sentence
from driftlm.models.fingerprint import earlier_fingerprint, fingerprint
from driftlm.models.gguf_files import parameters_in, parsed_once, plain
from driftlm.models.quantized import keep_as_loaded, quantization
from driftlm.models.sizes import refuse_too_large, stored
from driftlm.models.sources import Source, source_of
from driftlm.streams.windows import Windows

CACHE_LINE = 64  # bytes
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class LanguageModel:
    """A causal language model with its tokenizer, in evaluation mode, no parameter asking for a gradient.

    Attributes:
        model: the transformers model.
        tokenizer: its fast tokenizer.
        name: the folder, GGUF file or hub name it came from.
        bos: id of the token that stands before every document (BOS, or EOS where there is none).
        fingerprint: hash of configuration, vocabulary and weights, as they were before any cast.
        earlier_fingerprint: what it was in folders of an earlier version, where that is another.
        sha256: of the GGUF file that the weights come from, where they do.
    """

    model: Any
    tokenizer: Any
    name: str
    bos: int
    fingerprint: str
    earlier_fingerprint: str = field(default="", repr=False)
    sha256: str = ""

    def goes_by(self, held: str) -> bool:
        """Tell whether a fingerprint that a folder holds is this model's.

        One of an earlier version is taken on, so that what was made under it fits together still.
        """
        if held and held == self.earlier_fingerprint:
            self.fingerprint = held
        return held == self.fingerprint

    @property
    def place(self) -> str:
        """Return where it came from as others find it: a full path, or a hub name."""
        return str(Path(self.name).resolve()) if Path(self.name).exists() else self.name

    @property
    def from_file(self) -> bool:
        """Return whether it came from a GGUF file, no folder that transformers and peft load by its name alone."""
        return Path(self.name).is_file()

    @property
    def vocabulary(self) -> int:
        """Return V, the number of tokens the head scores."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return torch.device(next(self.model.parameters()).device)

    @property
    def positions(self) -> int | None:
        """Return the most tokens that a pass can hold; None where the model has no limit."""
        positions: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return positions

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a document and where each ends in the source.

        The text stands as it is: nothing is stripped, and the spelling of a special token is plain text.

        Returns:
            `[BOS, x1 ... xn]` and n byte positions (UTF-8; a character split over tokens counts with the first).

        Raises:
            DriftError: when the text has no token.
        """
        encoded = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        ids = encoded["input_ids"]
        if not ids:
            raise DriftError("the document has no token for this model's tokenizer; leave it out of the stream.")
        code_points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        widths = 1 + (code_points >= 0x80) + (code_points >= 0x800) + (code_points >= 0x10000).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(widths)])
        ends = np.maximum.accumulate(np.array(encoded["offset_mapping"], dtype=np.int64)[:, 1])
        byte_ends = starts[ends]
        byte_ends[-1] = starts[-1]
        return [self.bos, *ids], byte_ends.tolist()


def load(
    name: str | Path | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    bos: str | None = None,
    online: bool = False,
    bits: int = 0,
) -> LanguageModel:
    """Load a causal language model; the bundled one when no name is given.

    Args:
        name: a folder in HuggingFace format, a GGUF file or a folder that holds one, the name of a fetched model, or a
            hub name already in the local cache.
        dtype: `float32` or `bfloat16`.
        device: `cpu`, `cuda`, `cuda:1`, ...
        bos: the token that stands before a document, for tokenizers that declare neither BOS nor EOS.
        online: allow a download from the hub.
        bits: 4 or 8 for quantized weights, which stay frozen (see `quantization`); 0 loads them as they are.

    Raises:
        DriftError: when the model is missing or cannot be read as a stream; the sentence says what would work.

    Example:
        >>> load("no/such/model")
        Traceback (most recent call last):
        driftlm.core.errors.DriftError: the model 'no/such/model' is neither a folder nor in the local HuggingFace \
cache; give a folder, or allow a download with `Machine.online`.
    """
    if dtype not in DTYPES:
        raise DriftError(f"`Machine.dtype` was {dtype!r}; give float32 or bfloat16.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DriftError(
            f"`Machine.device` was {device!r} but no CUDA device is usable here; give `Machine.device` cpu."
        )
    source = source_of(name)
    if source.gguf and bits:
        raise DriftError(
            f"`Machine.bits` {bits} quantizes a model as it is loaded, but {source.name} is quantized already and is "
            f"dequantized; leave `Machine.bits` out."
        )
    quantized = quantization(bits, DTYPES[dtype], device)
    with no_progress_bar(), parsed_once(source.file) if source.gguf else nullcontext():
        config = config_of(source, online)
        refuse_what_cannot_work(config, source.name)
        exact = exact_dtype(source, dtype, device, bits)
        model = weights_of(source, config, exact, online, quantized)
        if source.gguf:
            del model.config.quantization_config  # dequantized, they are weights like any others
        tokenizer = tokenizer_of(source, online)
        known = fingerprint(model, tokenizer)
        if source.gguf or (exact != dtype and not bits):
            model = plain(model, DTYPES[dtype])
    keep_as_loaded(model)
    align(model)
    if getattr(model, "_is_stateful", False):
        raise DriftError(not_only_attention(config, source.name))
    refuse_unless_causal(model.eval(), source.name)
    model.requires_grad_(False).eval()
    if not quantized:  # else it is there
        model.to(device)
    bos_id = start_token(tokenizer, bos, source.name)
    return LanguageModel(
        model, tokenizer, source.name, bos_id, known, earlier_fingerprint(model, tokenizer), source.sha256
    )


def config_of(source: Source, online: bool) -> Any:
    """Return the configuration of a model."""
    missing = f"the model {source.name!r} is neither a folder nor in the local HuggingFace cache"
    missing += "; give a folder, or allow a download with `Machine.online`." if not online else " nor on the hub."
    try:
        return AutoConfig.from_pretrained(source.folder, local_files_only=not online, **source.options)
    except OSError as error:
        if Path(source.folder).is_dir():
            missing = (
                f"the config.json of {source.name!r} cannot be read ({first_sentence(error)}); put a whole one there."
            )
        raise DriftError(missing) from error
    except ValueError as error:
        if source.gguf:
            raise  # it may be damaged as well
        raise DriftError(
            f"the configuration of {source.name!r} names an architecture that transformers {transformers.__version__} "
            f"does not know; give a model it knows, or upgrade transformers."
        ) from error


def exact_dtype(source: Source, dtype: str, device: str, bits: int) -> str:
    """Return the type to load weights in so that none is rounded before the fingerprint is taken; refuses a model that
    would not fit.
    """
    if bits:
        return dtype
    held = None if source.gguf else stored(Path(source.folder))
    in_half = held is not None and held.dtypes == {"BF16"}
    exact = dtype if in_half else "float32"
    count = parameters_in(source.file) if source.gguf else held.parameters if held else 0
    refuse_too_large(source.name, count, 4 if exact == "float32" else 2, device, halved=in_half and dtype == "float32")
    return exact


def weights_of(source: Source, config: Any, dtype: str, online: bool, quantized: dict[str, Any]) -> Any:
    """Return a model with all of its weights, in a type."""
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source.folder,
            config=config,
            dtype=DTYPES[dtype],
            local_files_only=not online,
            output_loading_info=True,
            **source.options,
            **quantized,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise DriftError(
            f"the weights of {source.name!r} cannot be loaded as a causal language model "
            f"({first_sentence(error)}); give a complete causal model."
        ) from error
    if report["missing_keys"]:
        # transformers fills them with random numbers and goes on.
        raise DriftError(
            f"the weights of {source.name!r} are not complete: {len(report['missing_keys'])} tensors are missing, such "
            f"as {min(report['missing_keys'])}; give a complete causal model."
        )
    return model


def tokenizer_of(source: Source, online: bool) -> Any:
    """Return the fast tokenizer of a model."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=not online, **source.options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        beside = "give a whole file" if source.gguf else "put tokenizer.json beside it"
        raise DriftError(
            f"no tokenizer can be loaded for {source.name!r} ({first_sentence(error)}); {beside}."
        ) from error
    if not tokenizer.is_fast:
        raise DriftError(
            f"the tokenizer of {source.name!r} gives no byte positions; put a fast tokenizer.json beside it."
        )
    return tokenizer


def align(model: Any) -> None:
    """Move tensors that begin off a cache line, as a mapped file's may, to memory of their own.

    Matrix products round otherwise there, and a restored copy of the weights would not go on bit-equal.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % CACHE_LINE:
            tensor.data = tensor.data.clone()


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Hide the progress bar, which is noise for a load of milliseconds; a longer one is announced by the caller."""
    shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.logging.enable_progress_bar()


def refuse_what_cannot_work(config: Any, source: str) -> None:
    """Refuse architectures that no window scheme can read, before their weights are loaded."""
    if getattr(config, "is_encoder_decoder", False):
        raise DriftError(
            f"{source!r} is an encoder-decoder ({config.model_type}); driftlm reads with a causal language model."
        )
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or [])
    if kinds - ATTENTION_LAYERS:
        raise DriftError(not_only_attention(config, source))


def not_only_attention(config: Any, source: str) -> str:
    """Return the sentence that refuses recurrent and linear-attention layers."""
    kinds = sorted(set(getattr(config.get_text_config(), "layer_types", None) or []) - ATTENTION_LAYERS)
    named = f" ({', '.join(kinds)})" if kinds else ""
    return (
        f"{source!r} ({config.model_type}) has layers that are not attention{named}, whose state driftlm cannot cut "
        f"into windows; give a model whose layers are all attention, such as Llama, Qwen, Gemma, GPT-NeoX or GPT-2."
    )


@torch.no_grad()
def refuse_unless_causal(model: Any, source: str) -> None:
    """Refuse a model whose score of a token depends on later ones, such as BERT loaded as a causal model."""
    ids = torch.arange(8)[None] % model.get_output_embeddings().weight.shape[0]
    changed = ids.clone()
    changed[0, -1] = ids[0, 0]
    logits = [model(input_ids=one, use_cache=False).logits[0, :-1] for one in (ids, changed)]
    if (logits[0] - logits[1]).abs().max() > 10 * torch.finfo(logits[0].dtype).eps * logits[0].abs().max():
        raise DriftError(
            f"{source!r} ({model.config.model_type}) looks at later tokens, so it cannot score a stream; "
            f"give a causal language model."
        )


def positions_for_windows(language_model: LanguageModel) -> int | None:
    """Return the most positions that a window can take; None where there is no limit."""
    rope = getattr(language_model.model.config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Its angles change beyond this length, and a document's length would show in its last window's scores.
        return rope.get("original_max_position_embeddings", language_model.positions)
    return language_model.positions


def fitted(language_model: LanguageModel, windows: Windows, default: Windows = Windows()) -> Windows:  # noqa: B008
    """Return the default windows halved until the model's positions hold them; windows that were chosen as they are.

    Example (a model of 1,024 positions):
        >>> fitted(load(), Windows()).context
        512
    """
    positions = positions_for_windows(language_model)
    if windows == replace(default, window=windows.window, sink=windows.sink) and positions is not None:
        while windows.longest > positions and windows.stride > 1:
            windows = replace(windows, context=windows.context // 2, stride=windows.stride // 2)
    return windows


def refuse_long_context(language_model: LanguageModel, windows: Windows, taken: int = 0) -> None:
    """Refuse windows that the model's positions cannot hold, with their sink and what else takes positions."""
    positions = positions_for_windows(language_model)
    if positions is not None and windows.longest + taken > positions:
        before = {"of the sink": windows.sink, "of what stands before": taken}
        added = "".join(f" and {count} {name}" for name, count in before.items() if count)
        raise DriftError(
            f"`Windows.context` {windows.context}{added} {'exceed' if added else 'exceeds'} the {positions} positions "
            f"of {language_model.name!r}; give at most {positions - windows.sink - taken}."
        )


def start_token(tokenizer: Any, bos: str | None, source: str) -> int:
    """Return the id of the token before every document: `bos` if given, else BOS, else EOS."""
    if bos is not None:
        found = tokenizer.convert_tokens_to_ids(bos)
        if found is None or (found == tokenizer.unk_token_id and bos != tokenizer.unk_token):
            raise DriftError(f"`Machine.bos` {bos!r} is not one token of {source!r}; give a token of its vocabulary.")
        return int(found)
    for candidate in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    raise DriftError(
        f"the tokenizer of {source!r} has neither a BOS nor an EOS token to stand before a document; "
        f"name one of its tokens with `Machine.bos` TOKEN."
    )
