"""Put a trained model into the package: weights in bfloat16, gradient statistics in 8 bits, and the card.

    python -m recipes.ship_model build/bundled --corpus ../shared/corpus/gutenberg.jsonl.xz --books ../shared/data/books

BUILD is the folder that `recipes.train_model` filled. The two development books are measured by the static model with
overlapping windows of 1,024 tokens, 512 of them new.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch

from driftlm import Document, Learning, WeightMemory, Windows, load, read_stream
from driftlm.memories.weights.statistics import gather
from driftlm.models.catalogue import BUNDLED
from recipes.corpus import books

DEVELOPMENT_BOOKS = ("pg19_349.txt", "pg19_2021.txt")
STATISTICS_WINDOWS = Windows("overlapping", context=512, stride=256)
STATISTICS_TOKENS = 400_000


def excerpts(corpus: Path, count: int, characters: int) -> Iterator[Document]:
    """The middle of the corpus's first books."""
    for number, text in enumerate(islice(books(corpus), count)):
        middle = len(text) // 2
        yield Document(f"book-{number}", text[middle : middle + characters])


def measured(folder: Path, name: str, limit: int) -> float:
    """Bits per byte of the static bundled model on the first tokens of a book."""
    memory = WeightMemory(None, Windows("overlapping", 1024, 512), Learning(learn="none"))
    *_, last = read_stream(memory, folder / name, limit=limit)
    return last.totals.bits_per_byte


def card(log: list[dict], facts: dict, scores: dict[str, float], limit: int, parameters: int) -> str:
    """The model card, from what was logged and measured."""
    end = log[-1]
    rows = "\n".join(f"| `{name}` | {score:.3f} |" for name, score in scores.items())
    return f"""# The bundled model

A Llama of {parameters / 1e6:.2f} M parameters with grouped queries (6 layers, width 256, 4 heads, 2 key-value heads,
1,024 positions, tied embeddings) and a byte-level BPE of 4,096 tokens, trained from scratch for driftlm. It is small
on purpose: it comes with the package, reads on a laptop CPU, and has much to learn from what it reads. It is good for
trying driftlm and for measuring methods; it is no source of facts.

- **Data**: 459 public-domain English books of Project Gutenberg (4 more held out), none of them a development book.
- **Training**: {end["step"]:,} steps, {end["tokens"] / 1e6:.1f} M tokens (less than one pass over the data),
  {end["seconds"] / 3600:.1f} hours on a busy 2-core CPU in bfloat16 autocast; Muon for the matrices inside the blocks,
  AdamW for the rest; the first part of the steps on sequences of 256 tokens, the others of 1,024.
- **Held-out books of the same corpus**: {end["held_out_bits_per_byte"]:.3f} bits per byte (blocks of 1,024).
- **Files**: `model.safetensors` in bfloat16; `statistics.safetensors`, the RMS of the gradients over
  {facts["windows"]:,} windows of the training books ({facts["stride"]} new tokens, context {facts["context"]}),
  in 8-bit floats with one scale a row.
- **Made by** `recipes.train_tokenizer`, `recipes.train_model` and `recipes.ship_model`; licence Apache-2.0.

Bits per byte on the first {limit:,} tokens of two development books (static, overlapping windows, context 1,024,
stride 512):

| book | bits per byte |
|---|---|
{rows}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("build", type=Path)
    arguments.add_argument("--corpus", type=Path, required=True)
    arguments.add_argument("--books", type=Path, required=True)
    arguments.add_argument("--limit", type=int, default=50_000, help="tokens of each development book")
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)

    shutil.rmtree(BUNDLED, ignore_errors=True)
    shutil.copytree(options.build / "model", BUNDLED)
    documents = excerpts(options.corpus, 40, 200_000)
    statistics = gather(load(), spread(documents, STATISTICS_TOKENS // 40), STATISTICS_WINDOWS)
    statistics.save(BUNDLED / "statistics.safetensors", eight_bit=True)
    log = [json.loads(line) for line in (options.build / "log.jsonl").read_text().splitlines()]
    scores = {name: measured(options.books, name, options.limit) for name in DEVELOPMENT_BOOKS}
    parameters = sum(p.numel() for p in load().model.parameters())
    (BUNDLED / "README.md").write_text(card(log, statistics.facts, scores, options.limit, parameters))
    shutil.copy(options.build / "log.jsonl", Path(__file__).parent / "training_log.jsonl")
    total = sum(file.stat().st_size for file in BUNDLED.iterdir())
    print(f"{BUNDLED}: {total / 2**20:.1f} MiB; {scores}")


def spread(documents: Iterator[Document], tokens: int) -> Iterator[Document]:
    """Each document cut to about `tokens` tokens, so that many books count alike."""
    for document in documents:
        yield Document(document.id, document.text[: 4 * tokens])


if __name__ == "__main__":
    main()
