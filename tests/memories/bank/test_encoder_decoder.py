"""The paper's encoder around a tiny T5 with random weights: what it computes, and what it does without afterwards."""

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration, T5Model

from driftlm.core.errors import DriftError
from driftlm.memories.bank.encoder_decoder import KEPT, T5Encoder, pretrained
from driftlm.memories.bank.networks import BankNetworks, load_networks
from driftlm.memories.bank.settings import NetworksSettings
from tests.support.build import language_model
from tests.support.families import FAMILIES

WORDS = ["<pad>", "</s>", "<unk>", "it", "rained", "in", "paris", "where", "did", "rain"]
VECTORS, LONGEST, END = 3, 6, 1
ROWS = [[3, 4, 1], [3, 4, 5, 6, 8, 1], [7, 1]]


def t5(folder: Path, width: int = 16, seed: int = 0) -> str:
    """A checkpoint as the hub has them: with a head, dropout, and a tokenizer of words."""
    config = T5Config(
        vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=2,
        decoder_start_token_id=0, dropout_rate=0.5,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in WORDS[:3]])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return str(folder)


def settings(source: str, **others: object) -> NetworksSettings:
    shape = {"vectors": VECTORS, "blocks": 1, "heads": 2, "head_width": 8, "key_width": 8, "longest": LONGEST}
    return NetworksSettings(encoder="t5", t5=source, **(shape | others))  # type: ignore[arg-type]


def networks(source: str, family: str = "llama") -> BankNetworks:
    """Far from their start: questioner and amortizer differ."""
    model = language_model(family)
    model.model.requires_grad_(False)
    made = BankNetworks(model, settings(source)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return made


@pytest.mark.parametrize("width", [16, 32])
@torch.no_grad()
def test_vectors_are_the_t5s_decoder_states_through_a_map_each(width: int, tmp_path: Path) -> None:
    """Against T5 as transformers runs it, one text at a time, and the maps of the paper's code written out."""
    source = t5(tmp_path, width)
    encoder = T5Encoder(*pretrained(source), VECTORS, 32, LONGEST).train()
    whole = T5Model.from_pretrained(source).eval()
    made = encoder(ROWS)
    for row, vectors in zip(ROWS, made, strict=True):
        states = whole(input_ids=torch.tensor([row]), decoder_inputs_embeds=encoder.learned[None]).last_hidden_state[0]
        for state, vector, own in zip(states, vectors, encoder.maps, strict=True):
            norm, one, _, two = own.inside
            centred = (state - state.mean()) / (state.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
            inside = two.weight @ torch.tanh(one.weight @ centred + one.bias) + two.bias
            skipped = state if width == 32 else own.skip.weight @ state + own.skip.bias
            torch.testing.assert_close(vector, skipped + inside, atol=1e-5, rtol=1e-5)
    assert (made[0] - made[1]).abs().max() > 1e-2
    assert len({own.inside[1].weight.data_ptr() for own in encoder.maps}) == VECTORS


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_the_vectors_of_a_text_do_not_depend_on_longer_ones_beside_it(training: bool, tmp_path: Path) -> None:
    made = networks(t5(tmp_path)).train(training)
    beside = made.amortize_rows(ROWS)
    for row, vectors in zip(ROWS, beside, strict=True):
        torch.testing.assert_close(made.amortize_rows([row])[0], vectors, atol=1e-5, rtol=1e-5)
    questions = ["where", "where did it rain in paris"]
    for question, vectors in zip(questions, made.question_vectors(questions), strict=True):
        torch.testing.assert_close(made.question_vectors([question])[0], vectors, atol=1e-5, rtol=1e-5)


def test_a_vector_depends_on_the_learned_ones_up_to_its_own(tmp_path: Path) -> None:
    encoder = T5Encoder(*pretrained(t5(tmp_path)), VECTORS, 32, LONGEST)
    for number in range(VECTORS):
        (slope,) = torch.autograd.grad(encoder(ROWS)[:, number].sum(), encoder.learned)
        assert (slope.abs().amax(dim=1) > 0).tolist() == [place <= number for place in range(VECTORS)]


def test_a_long_text_is_read_in_parts_that_end(tmp_path: Path) -> None:
    made = networks(t5(tmp_path))
    text = "it rained in paris what it rained in paris"
    parts = made.reader.parts(text)
    assert [part[-1] for part in parts] == [END, END] and [len(part) for part in parts] == [LONGEST, 5]
    plain = [token for part in parts for token in part[:-1]]
    assert plain == [3, 4, 5, 6, 2, 3, 4, 5, 6]
    ((vectors, keys),) = made.amortize([text])
    assert vectors.shape == (2, VECTORS, 32) and keys.shape == (2, 8)
    assert made.reader.parts("") == [[END]] and len(list(made.amortize([""]))) == 1


def test_every_weight_of_both_t5s_learns_and_the_language_model_does_not(tmp_path: Path) -> None:
    model = language_model("llama")
    model.model.requires_grad_(False)
    made = BankNetworks(model, settings(t5(tmp_path)))
    rows = [[*range(3, 10), 2, END], [3, END]]
    amortized, asked = made.amortize_rows(rows), made.question_vectors(["it rained", "where did"])
    (amortized.square().sum() + asked.square().sum()).backward()
    for part in (made.amortizer, made.questioner):
        still = [name for name, weight in part.named_parameters() if weight.grad is None or not weight.grad.any()]
        assert not still
    assert all(weight.grad is None for weight in model.model.parameters())
    # Of the checkpoint each holds a copy of its own.
    one, other = ({weight.data_ptr() for weight in part.parameters()} for part in (made.amortizer, made.questioner))
    assert one.isdisjoint(other) and list(made.amortizer.state_dict()) == list(made.questioner.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("modulation", ["prefix", "lora"])
@torch.no_grad()
def test_what_was_saved_gives_the_same_bits_without_the_checkpoint(
    family: str, modulation: str, tmp_path: Path
) -> None:
    source = t5(tmp_path / "from")
    model = language_model(family)
    model.model.requires_grad_(False)
    made = BankNetworks(model, settings(source, modulation=modulation, rank=2)).eval()
    made.save(tmp_path / "to")
    shutil.rmtree(source)
    again = load_networks(tmp_path / "to", language_model(family))
    assert again.settings == made.settings and again.fingerprint() == made.fingerprint()
    again.save(tmp_path / "on")
    once_more = load_networks(tmp_path / "on", language_model(family))
    for text in ("it rained in paris", "where did"):
        ((expected, _),) = made.amortize([text])
        for one in (again, once_more):
            ((vectors, _),) = one.amortize([text])
            assert torch.equal(vectors, expected)
            assert torch.equal(one.question_vectors([text]), made.question_vectors([text]))
    assert sorted(path.name for path in (tmp_path / "to" / KEPT).iterdir()) == [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_what_is_no_t5_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="neither a folder nor in the local HuggingFace cache"):
        pretrained(str(tmp_path))
    model = language_model("llama")
    model.model.save_pretrained(tmp_path / "llama")
    with pytest.raises(DriftError, match="of the kind llama, not a T5"):
        pretrained(str(tmp_path / "llama"))


def test_a_t5_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    source = Path(t5(tmp_path / "t5"))
    (source / "tokenizer_config.json").unlink()
    (source / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(DriftError, match="knows 0 words of the 10"):
        pretrained(str(source))
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(DriftError, match="no tokenizer can be loaded"):
        pretrained(str(source))
    t5(source)
    (source / "model.safetensors").unlink()
    with pytest.raises(DriftError, match="weights of the T5 .* cannot be loaded"):
        pretrained(str(source))
    T5Model(T5Config.from_pretrained(source, num_layers=1)).save_pretrained(source, max_shard_size="1GB")
    t5(tmp_path / "deep")
    shutil.copy(tmp_path / "deep" / "config.json", source)
    with pytest.raises(DriftError, match=r"are not complete: .* such as encoder.block.1"):
        pretrained(str(source))
