"""Train the bundled model's byte-level BPE tokenizer on a corpus of books.

    python -m recipes.train_tokenizer ../shared/corpus/gutenberg.jsonl.xz --out build/bundled

The corpus is a JSONL file (plain, .gz or .xz) with one book a line under `text`.
Writes a HuggingFace tokenizer folder into OUT.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipes.corpus import books

VOCABULARY = 4096
POSITIONS = 1024


def sample(corpus: Path, bytes_per_book: int) -> Iterator[str]:
    """The middle of every book: title pages and indexes are not what books are made of."""
    for text in books(corpus):
        start = max(0, (len(text) - bytes_per_book) // 2)
        yield text[start : start + bytes_per_book]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--bytes-per-book", type=int, default=100_000)
    options = arguments.parse_args()

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|document|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(options.corpus, options.bytes_per_book), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|document|>",
        eos_token="<|document|>",
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(options.out)
    print(f"{options.out}: {len(wrapped)} tokens")


if __name__ == "__main__":
    main()
