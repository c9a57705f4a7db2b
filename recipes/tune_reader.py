"""Teach the bundled model to answer from a document in its context, by a LoRA; resumes by itself.

    python -m recipes.tune_reader --out build/reader --steps 1200 --threads 2

Sequences are documents of the world of facts, each with four questions and answers after it; one in five has none.
The loss is the answers' mean nats plus 0.2 times the text's. Only the LoRA learns; names of the validation and the test
never occur. Every `--log` steps one JSON line goes to OUT/log.jsonl with strict exact match on unseen names.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from driftlm.evaluation.answering import exact_match
from driftlm.models.loading import LanguageModel, load
from driftlm.models.prompting import answer_ids, end_token, padded, prompt_ids
from driftlm.streams.facts import World

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTH = 144


class LowRank(nn.Module):
    """W -> W + B A: one small product a step instead of two for every token and layer."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def low_rank(model: nn.Module, rank: int) -> dict[str, LowRank]:
    """Put a `LowRank` on every linear layer of the blocks, by the layer's name."""
    made = {}
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and name.split(".")[-1] in TARGETS:
            made[name] = LowRank(layer.weight, rank)
            parametrize.register_parametrization(layer, "weight", made[name])
    return made


def save_adapter(made: dict[str, LowRank], rank: int, folder: Path) -> None:
    """The low-rank factors as a PEFT adapter."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, task_type="CAUSAL_LM", inference_mode=True)
    config.save_pretrained(str(folder))
    tensors = {}
    for name, factors in made.items():
        for kind, value in (("A", factors.a), ("B", factors.b)):
            key = f"base_model.model.{name}.lora_{kind}.weight"
            tensors[key] = value.data.to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")


def sequence(language_model: LanguageModel, world: World) -> tuple[list[int], list[int]]:
    """Token ids, and 1 where the token belongs to an answer."""
    subject = world.subject()
    with_document = world.random.random() < 0.8
    news = ""
    if world.random.random() < 0.2:
        subject, news = world.changed(subject)
    text = world.told(subject, news)
    ids: list[int] = []
    marks: list[int] = []
    attributes = sorted(subject.values)
    world.random.shuffle(attributes)
    for number, attribute in enumerate(attributes if with_document else attributes[:1]):
        question = world.asked(subject, attribute)
        prompt = prompt_ids(language_model, question.text, text if with_document and number == 0 else "")
        answer = answer_ids(language_model, question.answers[0])
        ids += prompt + answer
        marks += [0] * len(prompt) + [1] * len(answer)
    return ids[:LENGTH], marks[:LENGTH]


@torch.no_grad()
def accuracy(language_model: LanguageModel, count: int, seed: int) -> dict[str, float]:
    """Strict exact match by kind of question, greedy, with the document in the context; unseen names."""
    world = World("validation", random.Random(seed))
    prompts, golds, kinds = [], [], []
    for _ in range(count):
        subject = world.subject()
        news = ""
        if world.random.random() < 0.2:
            subject, news = world.changed(subject)
        question = world.asked(subject, news or world.any_attribute(subject))
        prompts.append(prompt_ids(language_model, question.text, world.told(subject, news)))
        golds.append(question.answers[0])
        kinds.append(question.kind)
    ids, mask = padded(prompts, left=True)
    output = language_model.model.generate(
        ids, attention_mask=mask.long(), max_new_tokens=10, do_sample=False, pad_token_id=end_token(language_model)
    )
    said = language_model.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    right: dict[str, list[bool]] = {}
    for one, gold, kind in zip(said, golds, kinds):
        for key in ("all", kind):
            right.setdefault(key, []).append(exact_match(one, [gold]))
    return {key: round(sum(values) / len(values), 3) for key, values in sorted(right.items())}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--steps", type=int, default=1200)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--rank", type=int, default=32)
    arguments.add_argument("--rate", type=float, default=2e-3)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--log", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)

    language_model = load()
    model = language_model.model
    made = low_rank(model, options.rank)
    learned = [parameter for factors in made.values() for parameter in (factors.a, factors.b)]
    optimizer = torch.optim.AdamW(learned, lr=options.rate, betas=(0.9, 0.98), weight_decay=0.0)
    checkpoint, step = options.out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for parameter, value in zip(learned, saved["learned"], strict=True):
            parameter.data.copy_(value)
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]

    def loss_of(ids: torch.Tensor, answers: torch.Tensor, there: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        nats = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        answer = (nats * answers.flatten()).sum() / answers.sum()
        text = (nats * there.flatten()).sum() / there.sum()
        return answer, text

    compiled = torch.compile(loss_of, dynamic=False)
    began, running = time.monotonic(), []
    while step < options.steps:
        world = World("train", random.Random(f"{options.seed} {step}"))
        rows = [sequence(language_model, world) for _ in range(options.batch)]
        ids, mask = padded([row for row, _ in rows])
        marks, _ = padded([row for _, row in rows])
        ids, marks, mask = (F.pad(one, (0, LENGTH - one.shape[1])) for one in (ids, marks, mask))
        answer, text = compiled(ids, marks[:, 1:].float(), (mask[:, 1:] & (marks[:, 1:] == 0)).float())
        (answer + 0.2 * text).backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min((step + 1) / 100, (options.steps - step) / options.steps * 1.5, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running.append(answer.item())
        step += 1
        if step % options.log == 0 or step == options.steps:
            facts = {"step": step, "seconds": round(time.monotonic() - began, 1)}
            facts |= {"answer_nats": round(sum(running) / len(running), 4), "text_nats": round(text.item(), 3)}
            model.eval()
            facts["em"] = accuracy(language_model, 100 if step < options.steps else 1000, seed=1)
            with (options.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(facts) + "\n")
            print(facts, flush=True)
            running = []
            state = {"learned": [p.data for p in learned], "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, checkpoint.with_suffix(".partial"))
            os.replace(checkpoint.with_suffix(".partial"), checkpoint)
            save_adapter(made, options.rank, options.out / "adapter")


if __name__ == "__main__":
    main()
