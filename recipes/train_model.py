"""Train the bundled model from scratch on a corpus of books; resumes by itself.

    python -m recipes.train_tokenizer CORPUS --out build/bundled/tokenizer
    python -m recipes.train_model CORPUS --tokenizer build/bundled/tokenizer --out build/bundled \
        --tokens 60_000_000 --threads 2

A Llama of 5.2 M parameters, or with `--width` and `--layers` of another size. Matrices inside the blocks learn by Muon,
the rest by AdamW. The rate rises for 200 steps, stays, and falls linearly to zero over the last `--decay` of the run,
so a longer run can start from any checkpoint made before the fall. The first `--short` of the steps see sequences of
256 tokens (attention is cheaper there), the others the full 1,024.

Killed at any time, the same command goes on from the last checkpoint with the same data order.
Every `--log` steps one JSON line goes to OUT/log.jsonl; the finished model goes to OUT/model in bfloat16.
"""

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from recipes.corpus import books

HELD_OUT_BOOKS = 4
HEAD_WIDTH = 64
MUON_RATE, ADAM_RATE = 0.02, 3e-3
WARM_UP = 200


@lru_cache(maxsize=2)
def epoch_order(seed: int, length: int, epoch: int, sequences: int) -> tuple[int, np.ndarray]:
    """Where the first sequence of an epoch starts, and the order in which the epoch takes them."""
    generator = np.random.default_rng([seed, length, epoch])
    return int(generator.integers(length)), generator.permutation(sequences)


@dataclass(frozen=True)
class Schedule:
    """Which sequences a step sees, and at which fraction of the peak rate."""

    steps: int
    tokens_per_step: int
    short: float
    decay: float
    seed: int

    def length(self, step: int) -> int:
        return 256 if step < self.short * self.steps else 1024

    def rate(self, step: int) -> float:
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, (step + 1) / WARM_UP, falling)

    def batch(self, tokens: np.ndarray, step: int) -> torch.Tensor:
        """Sequences of step `step`, (rows, length + 1): each epoch is a fresh shift and permutation of all of them."""
        length = self.length(step)
        first = 0 if length == 256 else math.ceil(self.short * self.steps)
        rows = self.tokens_per_step // length
        sequences = len(tokens) // length - 2
        chosen = []
        for k in range((step - first) * rows, (step - first + 1) * rows):
            epoch, place = divmod(k, sequences)
            shift, order = epoch_order(self.seed, length, epoch, sequences)
            start = shift + length * int(order[place])
            chosen.append(tokens[start : start + length + 1])
        return torch.from_numpy(np.stack(chosen).astype(np.int64))


def tokenized(corpus: Path, folder: Path, tokenizer_folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Training tokens, held-out tokens and held-out bytes; tokenized once, then read from OUT."""
    paths = folder / "train.npy", folder / "held_out.npy", folder / "held_out.json"
    if not all(path.exists() for path in paths):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        pieces, kept = [], []
        for text in books(corpus):
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
            pieces.append(np.array([tokenizer.bos_token_id, *ids], dtype=np.uint16))
            kept = [*kept, len(text.encode())][-HELD_OUT_BOOKS:]
        np.save(paths[0], np.concatenate(pieces[:-HELD_OUT_BOOKS]))
        np.save(paths[1], np.concatenate(pieces[-HELD_OUT_BOOKS:]))
        paths[2].write_text(json.dumps({"bytes": sum(kept)}))
    return np.load(paths[0], mmap_mode="r"), np.load(paths[1]), json.loads(paths[2].read_text())["bytes"]


def fresh_model(vocabulary: int, width: int, layers: int) -> LlamaForCausalLM:
    heads = max(1, width // HEAD_WIDTH)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=5 * width // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=HEAD_WIDTH,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("--tokenizer", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--tokens", type=int, default=60_000_000)
    arguments.add_argument("--width", type=int, default=256, help=f"a multiple of {HEAD_WIDTH}")
    arguments.add_argument("--layers", type=int, default=6)
    arguments.add_argument("--tokens-per-step", type=int, default=8192)
    arguments.add_argument("--short", type=float, default=0.6, help="share of the steps on sequences of 256 tokens")
    arguments.add_argument("--decay", type=float, default=0.3, help="share of the steps over which the rate falls")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--log", type=int, default=50)
    arguments.add_argument("--checkpoint", type=int, default=250, help="steps between checkpoints")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    train, held_out, held_out_bytes = tokenized(options.corpus, options.out, options.tokenizer)
    schedule = Schedule(
        options.tokens // options.tokens_per_step, options.tokens_per_step, options.short, options.decay, options.seed
    )

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    model = fresh_model(len(tokenizer), options.width, options.layers).to(options.device)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers = [
        torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peaks = [MUON_RATE, ADAM_RATE]

    checkpoint = options.out / "checkpoint.pt"
    step, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=options.device)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, seconds = saved["step"], saved["seconds"]
        print(f"resumed at step {step} of {schedule.steps}", flush=True)
        log = options.out / "log.jsonl"
        kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
        log.write_text("".join(line + "\n" for line in kept))

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(options.device.split(":")[0], torch.bfloat16):
            hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
            logits = model.lm_head(hidden)
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    compiled = torch.compile(loss_of, dynamic=False)

    @torch.no_grad()
    def held_out_bits_per_byte() -> float:
        """Blocks of 1,024 without overlap, over the first 64 blocks: a progress figure, not a result."""
        rows = torch.from_numpy(held_out[: 64 * 1024 + 1].astype(np.int64)).to(options.device)
        nats = sum(loss_of(rows[i * 1024 : (i + 1) * 1024 + 1][None]).item() * 1024 for i in range(64))
        return nats / math.log(2) / (64 * 1024 * held_out_bytes / len(held_out))

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "step": step,
            "seconds": seconds,
        }
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, checkpoint)

    began, running = time.monotonic(), []
    while step < schedule.steps:
        ids = schedule.batch(train, step).to(options.device)
        loss = compiled(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule.rate(step)
            optimizer.step()
            optimizer.zero_grad()
        running.append(loss.item())
        step += 1
        seconds += time.monotonic() - began
        began = time.monotonic()
        if step % options.log == 0 or step == schedule.steps:
            line = {"step": step, "tokens": step * options.tokens_per_step, "seconds": round(seconds, 1)}
            line["nats_per_token"] = round(sum(running) / len(running), 4)
            if step % options.checkpoint == 0 or step == schedule.steps:
                line["held_out_bits_per_byte"] = round(held_out_bits_per_byte(), 4)
                save()
                if step <= (1 - options.decay) * schedule.steps < step + options.checkpoint:
                    (options.out / "before_decay.pt").write_bytes(checkpoint.read_bytes())
            with (options.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)
            running = []

    model.to(torch.bfloat16).save_pretrained(options.out / "model")
    tokenizer.save_pretrained(options.out / "model")


if __name__ == "__main__":
    main()
