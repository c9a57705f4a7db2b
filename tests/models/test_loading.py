"""Models and tokenizers from folders: what loads, what is refused and how, and tokens with their places in the text."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedModel

from driftlm import DriftError, Windows, load
from driftlm.models.loading import LanguageModel, fitted, refuse_long_context
from driftlm.streams.windows import split
from tests.support.build import TOKENIZER, language_model
from tests.support.families import BOS, BOS_TOKEN, FAMILIES, POSITIONS, VOCABULARY, llama, tiny_tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "pad_token_id": None, "bos_token_id": BOS, "eos_token_id": BOS,
}  # fmt: skip


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(llama(), tmp_path_factory.mktemp("llama"))


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A folder of its own, to be damaged."""
    return Path(shutil.copytree(llama_folder, tmp_path / "llama"))


def tiny(name: str, **settings: Any) -> PreTrainedModel:
    kind: Any = getattr(transformers, name)
    return kind(kind.config_class(**(SMALL | settings)))


# ------------------------------------------------------------------------------------------------------- what loads


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_the_model_it_holds(tmp_path: Path, family: str) -> None:
    original = FAMILIES[family]()
    language = load(saved(original, tmp_path))
    assert language.name == str(tmp_path) and language.bos == BOS and language.vocabulary == VOCABULARY
    assert not language.model.training
    assert not any(parameter.requires_grad for parameter in language.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(original.parameters(), language.model.parameters(), strict=True))
    assert language.encode("the rain")[0] == [BOS, *TOKENIZER("the rain")["input_ids"]]


def test_half_precision_is_what_was_asked_for(llama_folder: Path) -> None:
    language = load(llama_folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in language.model.parameters()} == {torch.bfloat16}


def test_the_fingerprint_is_of_weights_and_vocabulary(folder: Path, llama_folder: Path) -> None:
    first = load(llama_folder).fingerprint
    assert load(folder).fingerprint == first  # not of the place
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert load(folder).fingerprint != first


def test_loading_does_not_touch_the_random_state(llama_folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(llama_folder)
    assert torch.equal(torch.rand(3), expected)


# --------------------------------------------------------------------------------------------------- what is missing


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="'no/such/model' is neither a folder nor in the local HuggingFace cache"):
        load("no/such/model")
    with pytest.raises(DriftError, match=r"no config\.json; give a folder in HuggingFace format"):
        load(tmp_path)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:700])


def reconfigure(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove("model.safetensors"), "the weights of .* cannot be loaded .*no file named"),
        (cut("model.safetensors"), "the weights of .* cannot be loaded"),
        (drop_tensor, r"not complete: 1 tensors? .*missing.* model\.layers\.1\.mlp\.down_proj\.weight"),
        (reconfigure(hidden_size=40), "the weights of .* cannot be loaded"),
        (remove("tokenizer.json"), r"no tokenizer can be loaded for .*put tokenizer\.json beside"),
        (cut("tokenizer.json"), "no tokenizer can be loaded"),
        (cut("config.json"), r"config\.json of .* cannot be read"),
        (reconfigure(model_type="unheard_of"), "names an architecture that transformers .* does not know"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_sentence(folder: Path, damage: Callable[[Path], None], sentence: str) -> None:
    damage(folder)
    with pytest.raises(DriftError, match=sentence) as refusal:
        load(folder)
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_settings_that_cannot_be_are_refused(llama_folder: Path) -> None:
    with pytest.raises(DriftError, match="`Machine.dtype` was 'float8'; give float32 or bfloat16"):
        load(llama_folder, dtype="float8")
    if not torch.cuda.is_available():
        with pytest.raises(DriftError, match="`Machine.device` was 'cuda:1'.*`Machine.device` cpu"):
            load(llama_folder, device="cuda:1")


# ------------------------------------------------------------------------------------------ what cannot read a stream


def refuse_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", never)


def test_an_encoder_decoder_is_refused_before_its_weights_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    config.save_pretrained(tmp_path)
    refuse_weights(monkeypatch)
    with pytest.raises(DriftError, match=r"encoder-decoder \(t5\); driftlm reads with a causal language model"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("MambaConfig", {"state_size": 4}, r"\(mamba\)"),
        ("Qwen3NextConfig", {"num_hidden_layers": 4, "num_key_value_heads": 2}, r"\(qwen3_next\).*linear_attention"),
        ("Lfm2Config", {"num_key_value_heads": 2, "full_attn_idxs": [1]}, r"\(lfm2\).*conv"),
    ],
)
def test_layers_that_are_not_attention_are_refused_by_name_before_their_weights_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, changes: dict[str, Any], named: str
) -> None:
    getattr(transformers, kind)(**(SMALL | changes)).save_pretrained(tmp_path)
    refuse_weights(monkeypatch)
    with pytest.raises(DriftError, match=f"{named}.*layers are all attention"):
        load(tmp_path)


def test_a_recurrent_model_without_layer_types_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match=r"\(rwkv\) has layers that are not attention"):
        load(saved(tiny("RwkvForCausalLM", attention_hidden_size=32), tmp_path))


@pytest.mark.parametrize("name", ["BertLMHeadModel", "RobertaForCausalLM"])
def test_a_model_that_looks_at_later_tokens_is_refused(tmp_path: Path, name: str) -> None:
    model = saved(tiny(name, max_position_embeddings=64, pad_token_id=1), tmp_path)
    with pytest.raises(DriftError, match=r"looks at later tokens.*give a causal language model"):
        load(model)
    # The same architecture as a decoder reads from left to right.
    assert load(saved(tiny(name, max_position_embeddings=64, pad_token_id=1, is_decoder=True), tmp_path)).bos == BOS


def test_a_context_beyond_the_positions_is_refused() -> None:
    language = language_model("gpt2")
    refuse_long_context(language, Windows(context=POSITIONS - 2, sink=2))
    with pytest.raises(
        DriftError,
        match=rf"`Windows.context` {POSITIONS - 1} and 2 of the sink exceed the {POSITIONS} positions of 'tiny-gpt2'; "
        rf"give at most {POSITIONS - 2}",
    ):
        refuse_long_context(language, Windows(context=POSITIONS - 1, sink=2))
    with pytest.raises(DriftError, match=rf"`Windows.context` {POSITIONS + 1} exceeds the {POSITIONS} positions"):
        refuse_long_context(language, Windows(context=POSITIONS + 1, sink=0))


def test_a_context_over_which_rotary_angles_change_is_refused() -> None:
    # The last window of a document is shorter: its length would decide which angles its scores come from.
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "factor": 8.0, "short_factor": [1.0] * 4,
            "long_factor": [8.0] * 4, "original_max_position_embeddings": 32}  # fmt: skip
    model = tiny("LlamaForCausalLM", max_position_embeddings=256, rope_parameters=rope)
    language = LanguageModel(model, TOKENIZER, "long", BOS, "")
    short = Windows(stride=16, context=32, sink=0)
    refuse_long_context(language, short)
    with pytest.raises(DriftError, match="`Windows.context` 33 exceeds the 32 positions of 'long'; give at most 32"):
        refuse_long_context(language, replace(short, context=33))


# ------------------------------------------------------------------------------------------- the token before it all


def without(folder: Path, *special: str) -> None:
    tokenizer = tiny_tokenizer()
    for name in special:
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder)


def test_eos_stands_in_for_a_missing_bos_and_with_neither_one_is_asked_for(folder: Path) -> None:
    without(folder, "bos_token")
    assert load(folder).bos == BOS
    without(folder, "bos_token", "eos_token")
    with pytest.raises(DriftError, match="neither a BOS nor an EOS token.*`Machine.bos` TOKEN"):
        load(folder)
    language = load(folder, bos="Ġthe")
    assert language.bos == TOKENIZER.convert_tokens_to_ids("Ġthe") and language.encode("a")[0][0] == language.bos
    for nonsense in ("not a token", ""):
        with pytest.raises(DriftError, match=f"`Machine.bos` '{nonsense}' is not one token"):
            load(folder, bos=nonsense)


# ------------------------------------------------------------------------------------------------------------ tokens


def whole(language: LanguageModel, text: str, stride: int = 3) -> None:
    """Every byte of the text belongs to exactly one window."""
    ids, ends = language.encode(text)
    size = len(text.encode())
    assert ids[0] == language.bos and len(ends) == len(ids) - 1
    assert ends[0] > 0 and ends[-1] == size and ends == sorted(ends)
    windows = list(split("d", ids, ends, Windows("overlapping", stride, stride)))
    assert all(window.bytes >= 0 for window in windows) and sum(window.bytes for window in windows) == size


TEXTS = ["e", "é", "😀", "日本語", "a\r\nb\n\n", "  the  ", "\x00", "👩‍👩‍👧", "e\u0301", "\ufefftext", "ﬁ", "\u2581the",
         f"{BOS_TOKEN}<s></s>"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_the_windows_are_the_bytes_of_the_text(text: str) -> None:
    whole(language_model("llama"), text)


@settings(max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
@example(text="the the\r\né𝄞")
def test_the_bytes_of_any_text(text: str) -> None:
    whole(LANGUAGE, text)


LANGUAGE = language_model("llama")


def test_the_bytes_by_a_real_tokenizer(shared: Path) -> None:
    language = load(shared / "models" / "stories260k")
    for text in (*TEXTS, "Il était une fois… «\u00a0où\u00a0»\n\tdéjà 🐉"):
        whole(language, text)


def test_byte_positions_of_a_character_over_several_tokens() -> None:
    # é is one token, 😀 four: its bytes count with the first.
    assert language_model("llama").encode("é😀a")[1] == [2, 6, 6, 6, 6, 7]


def test_bytes_between_tokens_and_after_the_last_one_are_not_lost() -> None:
    # A tokenizer that drops white space.
    words = Tokenizer(WordLevel({"<s>": 0, "a": 1, "b": 2}, unk_token="<s>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    language = LanguageModel(language_model("llama").model, tokenizer, "words", 0, "")
    assert language.encode(" a  b \n") == ([0, 1, 2], [2, 7])
    whole(language, " a  b \n")


def test_text_stands_as_it_is() -> None:
    language = language_model("llama")
    ids, _ = language.encode(f"  a{BOS_TOKEN}\r\n")
    assert ids.count(BOS) == 1  # the one in front; the one that is spelled out is text
    assert language.tokenizer.decode(ids[1:]) == f"  a{BOS_TOKEN}\r\n"


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(DriftError, match="the document has no token"):
        language_model("llama").encode("")


def test_default_windows_are_halved_until_a_model_holds_them_and_chosen_ones_stay() -> None:
    language = language_model("gpt2")
    assert POSITIONS == 512
    assert fitted(language, Windows()) == Windows(context=256, stride=128)
    assert fitted(language, Windows("cached", sink=0)) == Windows("cached", sink=0)
    chosen = Windows(context=600, stride=200)
    assert fitted(language, chosen) == chosen
    short = Windows("cached", 512, 128)
    assert fitted(language, short) == short and fitted(language, short, short) == Windows("cached", 256, 64)
