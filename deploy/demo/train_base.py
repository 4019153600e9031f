#!/usr/bin/env python3
"""Trains the demo base model and its tokenizer on the generated corpus; needs PyTorch, transformers, a GPU.

Writes a Hugging Face model directory (bf16 safetensors) and TRAINING.json with every setting, the losses
and the time taken. The text comes from generate_corpus.py with --seed; document numbers from
--documents on make the held-out text.

  train_base.py --out=base --tokens=1_500_000_000 --max_minutes=9
"""

import argparse
import json
import math
import multiprocessing
import os
import pathlib
import time

import generate_corpus

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
# The split of Llama 3: contractions, words, numbers of up to three digits, punctuation, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(args):
    """Byte-level BPE with BOS added by the post-processor."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=args.vocab,
        special_tokens=[BOS, EOS, PAD],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(
        generate_corpus.documents(args.seed, 0, min(args.documents, args.tokenizer_documents)), trainer
    )
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, bos)]
            ),
        ]
    )
    return tokenizer


def write_tokenizer(tokenizer, args):
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"), pretty=False)
    (args.out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": BOS,
                "eos_token": EOS,
                "pad_token": PAD,
                "clean_up_tokenization_spaces": False,
                "model_max_length": args.context,
                "tokenizer_class": "PreTrainedTokenizerFast",
            },
            indent=2,
        )
        + "\n"
    )


def _encode(job):
    """uint16 ids of documents [start, start + count): BOS text EOS BOS text EOS ..."""
    import numpy
    from tokenizers import Tokenizer

    path, seed, start, count = job
    tokenizer = Tokenizer.from_file(path)
    eos = tokenizer.token_to_id(EOS)
    ids = []
    for text in generate_corpus.documents(seed, start, count):
        ids.extend(tokenizer.encode(text).ids)
        ids.append(eos)
    return numpy.array(ids, dtype=numpy.uint16)


def encode_corpus(args, start, count):
    """The documents' ids as one int16 tensor on the CPU, in document order whatever the process count."""
    import numpy
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    path, chunk = str(args.out / "tokenizer.json"), max(1, min(5000, count // args.processes))
    jobs = [(path, args.seed, s, min(chunk, start + count - s)) for s in range(start, start + count, chunk)]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        parts = pool.map(_encode, jobs, chunksize=1)
    return torch.from_numpy(numpy.concatenate(parts).astype(numpy.int16))


def build_model(args, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        head_dim=args.hidden // args.heads,
        max_position_embeddings=args.context,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        hidden_act="silu",
        attention_bias=False,
        mlp_bias=False,
        initializer_range=0.02,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(PAD),
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def cross_entropy(hidden, weight, targets):
    import torch.nn.functional as F

    return F.cross_entropy(F.linear(hidden, weight).float().flatten(0, 1), targets.flatten())


def loss_of(model, ids, head=cross_entropy):
    """Mean next-token cross-entropy (nats) of a batch of rows."""
    import torch

    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
        return head(hidden, model.lm_head.weight, ids[:, 1:])


def evaluate(model, tokens, args, device):
    import torch

    rows = tokens[: len(tokens) // (args.context + 1) * (args.context + 1)].view(-1, args.context + 1)
    batches = [chunk for chunk in rows.split(args.batch) if len(chunk) == args.batch]
    with torch.no_grad():
        losses = [loss_of(model, batch.to(device).long()).item() for batch in batches]
    return sum(losses) / len(losses)


def save(model, args, training):
    """HF directory in bf16; the tied head is not stored twice."""
    import copy

    import torch

    stored = copy.deepcopy(model).to("cpu", torch.bfloat16)
    stored.config.use_cache = True
    stored.generation_config.eos_token_id = stored.config.eos_token_id
    stored.generation_config.use_cache = True
    stored.generation_config.max_new_tokens = 128
    stored.save_pretrained(args.out)
    (args.out / "TRAINING.json").write_text(json.dumps(training, indent=2) + "\n")


def train(model, tokens, args, device, training):
    """AdamW, linear warm-up, cosine to zero over --tokens or --max_minutes, whichever ends first."""
    import torch

    torch.manual_seed(args.seed)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=device == "cuda",
    )
    head = torch.compile(cross_entropy) if args.compile else cross_entropy
    if args.compile:
        for layer in model.model.layers:
            layer.compile()
    row = args.context + 1
    tokens = tokens.to(device)
    window = torch.arange(row, device=device)
    total = max(1, int(args.tokens // (args.batch * args.context)))
    generator = torch.Generator().manual_seed(args.seed)
    start, log_start, step, progress, smooth = time.time(), time.time(), 0, 0.0, None
    while progress < 1.0:
        # The same for every run that the token budget ends; the clock only shortens slow ones.
        progress = max(step / total, (time.time() - start) / (args.max_minutes * 60)) if step else 0.0
        scale = min(1.0, (step + 1) / args.warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * scale
        offsets = torch.randint(len(tokens) - row, (args.batch,), generator=generator).to(device)
        ids = tokens[offsets[:, None] + window].long()
        loss = loss_of(model, ids, head)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % args.log_every == 0 or step == 1:
            value = loss.item()
            smooth = value if smooth is None else 0.7 * smooth + 0.3 * value
            rate = (
                args.batch
                * args.context
                * (step if step == 1 else args.log_every)
                / (time.time() - log_start)
            )
            log_start = time.time()
            print(
                f"step {step} loss {value:.4f} lr {args.lr * scale:.2e} {rate / 1e6:.2f} Mtok/s "
                f"{time.time() - start:.0f} s {100 * progress:.0f} %",
                flush=True,
            )
    training.update(
        optimiser_steps=step,
        trained_tokens=step * args.batch * args.context,
        final_training_loss=round(smooth, 4),
        training_minutes=round((time.time() - start) / 60, 2),
    )


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent / "base")
    add("--seed", type=int, default=generate_corpus.DEFAULT_SEED)
    add("--documents", type=int, default=2_000_000)
    add("--held_out_documents", type=int, default=4000)
    add("--tokenizer_documents", type=int, default=60_000)
    add("--vocab", type=int, default=4096)
    add("--hidden", type=int, default=256)
    add("--intermediate", type=int, default=704)
    add("--layers", type=int, default=8)
    add("--heads", type=int, default=4)
    add("--kv_heads", type=int, default=2)
    add("--context", type=int, default=1024)
    add("--batch", type=int, default=128, help="rows of --context tokens per step")
    add("--tokens", type=float, default=1.5e9)
    add("--max_minutes", type=float, default=9.0)
    add("--lr", type=float, default=3e-3)
    add("--warmup", type=int, default=200)
    add("--weight_decay", type=float, default=0.1)
    add("--log_every", type=int, default=100)
    add("--processes", type=int, default=os.cpu_count())
    add("--compile", action=argparse.BooleanOptionalAction, default=True)
    add("--cpu", action="store_true")
    return parser.parse_args(arguments)


def main():
    args = parse_args()
    begin = time.time()
    tokenizer = train_tokenizer(args)
    write_tokenizer(tokenizer, args)
    print(f"tokenizer: {tokenizer.get_vocab_size()} tokens, {time.time() - begin:.0f} s", flush=True)
    tokens = encode_corpus(args, 0, args.documents)
    held_out = encode_corpus(args, args.documents, args.held_out_documents)
    print(f"corpus: {len(tokens) / 1e6:.1f} M tokens, {time.time() - begin:.0f} s", flush=True)

    import torch
    import transformers
    from nf4 import quantise_linears

    device = "cpu" if args.cpu else "cuda"
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    model = build_model(args, tokenizer).to(device)
    training = {
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "cpu", "processes")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "corpus_tokens": len(tokens),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    train(model, tokens, args, device, training)
    training["held_out_loss_fp32"] = round(evaluate(model, held_out, args, device), 4)
    training["total_minutes"] = round((time.time() - begin) / 60, 2)
    save(model, args, training)
    training["held_out_loss_nf4"] = round(
        evaluate(quantise_linears(model.bfloat16().float()), held_out, args, device), 4
    )
    (args.out / "TRAINING.json").write_text(json.dumps(training, indent=2) + "\n")
    print(json.dumps(training), flush=True)


if __name__ == "__main__":
    main()
