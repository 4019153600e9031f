#!/usr/bin/env python3
"""Fine-tunes LoRA adapters on the demo tasks with PyTorch and PEFT, to find and check the job settings.

The base is the NF4 round trip of the bundled model, as lorad serves it. Prints the base's exact match and,
every --every_tokens trained tokens (prompt, completion and special tokens), the adapter's.

  try_lora.py --task=sql --r=16 --lr=2e-3 --batch=8 --tokens=80000
"""

import argparse
import json
import math
import pathlib
import random
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from nf4 import quantise_linears

HERE = pathlib.Path(__file__).resolve().parent


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def exact_match(model, tokenizer, rows, device, show=0):
    """Share of prompts whose greedy completion, up to EOS, equals the expected one."""
    model.eval()
    right = 0
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        batch = tokenizer(
            [row["prompt"] for row in part],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            return_token_type_ids=False,
        ).to(device)
        out = model.generate(**batch, do_sample=False, max_new_tokens=56, pad_token_id=tokenizer.pad_token_id)
        for row, ids in zip(part, out[:, batch["input_ids"].shape[1] :]):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            right += text == row["completion"]
            if show and text != row["completion"]:
                show -= 1
                print(f"  {row['prompt']!r}\n    expected {row['completion']!r}\n    got      {text!r}")
    model.train()
    return right / len(rows)


def encode(tokenizer, row):
    prompt = tokenizer(row["prompt"])["input_ids"]
    completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [
        tokenizer.eos_token_id
    ]
    return prompt + completion, [-100] * len(prompt) + completion


def collate(examples, pad, device):
    longest = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([i + [pad] * (longest - len(i)) for i, _ in examples], device=device)
    labels = torch.tensor([l + [-100] * (longest - len(l)) for _, l in examples], device=device)
    return ids, labels


def run(args, task, lr):
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).to(device)
    base = quantise_linears(base)
    base.config.use_cache = True
    train, held = (read(args.data / f"{task}_{part}.jsonl") for part in ("train", "eval"))
    held = held[: args.eval_rows]
    name = f"{task} r={args.r} alpha={args.alpha} lr={lr:g} batch={args.batch} seed={args.seed}"
    if args.show_base:
        print(
            f"{task}: base exact match {100 * exact_match(base, tokenizer, held, device, 2):.1f} %",
            flush=True,
        )
    torch.manual_seed(args.seed)
    model = get_peft_model(base, LoraConfig(r=args.r, lora_alpha=args.alpha, target_modules="all-linear"))
    examples = [encode(tokenizer, row) for row in train]
    mean_tokens = sum(len(ids) for ids, _ in examples) / len(examples)
    steps = max(1, int(args.tokens / mean_tokens / args.batch))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    rng, order, seen, next_eval, results = random.Random(args.seed), [], 0, args.every_tokens, []
    start = time.time()
    for step in range(steps):
        decay = {
            "constant": 1.0,
            "linear": 1 - step / steps,
            "cosine": 0.5 * (1 + math.cos(math.pi * step / steps)),
        }[args.schedule]
        optimizer.param_groups[0]["lr"] = lr * decay * min(1.0, (step + 1) / args.warmup)
        while len(order) < args.batch:
            again = list(range(len(examples)))
            rng.shuffle(again)
            order += again
        picked, order = order[: args.batch], order[args.batch :]
        seen += sum(len(examples[i][0]) for i in picked)
        ids, labels = collate([examples[i] for i in picked], tokenizer.pad_token_id, device)
        logits = model(input_ids=ids, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if seen >= next_eval or step + 1 == steps:
            next_eval += args.every_tokens
            last = step + 1 == steps
            match = exact_match(model, tokenizer, held, device, args.show if last else 0)
            results.append(f"{seen / 1000:.0f}k:{100 * match:.1f}")
    print(
        f"{name} {args.schedule} steps={steps} ({mean_tokens:.1f} tokens each) loss={loss.item():.4f} "
        f"exact match % by tokens: {' '.join(results)}  {time.time() - start:.0f} s",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base", type=pathlib.Path, default=HERE / "base")
    add("--data", type=pathlib.Path, default=HERE / "data")
    add("--task", nargs="+", choices=("sql", "tickets"), default=["sql", "tickets"])
    add("--r", type=int, default=16)
    add("--alpha", type=int, default=32)
    add("--lr", type=float, nargs="+", default=[2e-3])
    add("--schedule", choices=("linear", "cosine", "constant"), default="linear")
    add("--warmup", type=int, default=10)
    add("--batch", type=int, default=8, help="examples per optimiser step")
    add("--tokens", type=int, default=80_000)
    add("--every_tokens", type=int, default=20_000)
    add("--eval_rows", type=int, default=1000)
    add("--seed", type=int, default=0)
    add("--show", type=int, default=0, help="wrong answers to print at the end")
    add("--show_base", action="store_true", help="measure the base first")
    add("--cpu", action="store_true")
    args = parser.parse_args()
    for task in args.task:
        for lr in args.lr:
            run(args, task, lr)


if __name__ == "__main__":
    main()
