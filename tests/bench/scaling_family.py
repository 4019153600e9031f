#!/usr/bin/env python3
"""Loss against compute: trains a family of small language models from scratch on the demo corpus.

Every model goes through deploy/demo/train_base.py, the script of the demo base: architecture, optimiser,
schedule, corpus and held-out text are its own, so that sizes and token budgets alone differ. Each point is a
run of its own, because a cosine schedule must end with its tokens (Hoffmann 2022). Appends a line per point
to --out; points that are there already are not run again. Runs on the CPU with the Python of
tests/interop/make_venv.sh.

  tests/interop/make_venv.sh build/interop-venv
  build/interop-venv/bin/python tests/bench/scaling_family.py --out=tests/bench/results/scaling_family.csv

Columns: parameters_without_embeddings; parameters, the tied embedding counted once (it is the output head,
so it computes); tokens trained; compute, 6 * parameters * tokens, in FLOP; loss, nats per token over the
held-out text; train_loss, smoothed; seconds of CPU time.
"""

import argparse
import csv
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "deploy" / "demo"))
import train_base  # noqa: E402

# (hidden, layers, heads), with half as many heads for keys and values.
SIZES = ((32, 2, 2), (64, 2, 2), (96, 3, 4), (160, 3, 4), (256, 3, 4))
# Budgets in tokens, for sizes of at most so many parameters: what minutes of one core allow.
BUDGETS = (
    (200_000, (262_144, 524_288, 1_048_576, 2_097_152)),
    (1_100_000, (262_144, 524_288, 1_048_576)),
    (10_000_000, (262_144, 524_288)),
)
COLUMNS = (
    "hidden layers seed parameters_without_embeddings parameters tokens compute loss train_loss "
    "learning_rate steps seconds"
).split()
KEY = ("hidden", "layers", "tokens", "seed")


def settings(args, hidden, layers, heads, tokens):
    """train_base's arguments for one point."""
    steps = tokens // (args.batch * args.context)
    return train_base.parse_args(
        [
            "--cpu",
            "--no-compile",
            "--processes=1",
            f"--out={args.work}",
            f"--seed={args.seed}",
            f"--documents={args.documents}",
            f"--held_out_documents={args.held_out_documents}",
            f"--tokenizer_documents={args.tokenizer_documents}",
            f"--vocab={args.vocab}",
            f"--hidden={hidden}",
            f"--intermediate={hidden * 11 // 4 // 8 * 8}",  # the demo's share
            f"--layers={layers}",
            f"--heads={heads}",
            f"--kv_heads={heads // 2}",
            f"--context={args.context}",
            f"--batch={args.batch}",
            f"--tokens={tokens}",
            "--max_minutes=1e9",  # the token budget alone ends a run
            f"--lr={args.lr_times_width / hidden}",
            f"--warmup={max(1, steps // 20)}",
            f"--log_every={max(1, steps // 10)}",
        ]
    )


def corpus(args):
    """Tokenizer, training and held-out ids; made once for the whole family, kept in --work."""
    import torch
    from tokenizers import Tokenizer

    stored = args.work / "corpus.pt"
    base = settings(args, *SIZES[0], args.batch * args.context)
    if stored.exists():
        return Tokenizer.from_file(str(args.work / "tokenizer.json")), *torch.load(stored)
    tokenizer = train_base.train_tokenizer(base)
    train_base.write_tokenizer(tokenizer, base)
    tokens = train_base.encode_corpus(base, 0, args.documents)
    held_out = train_base.encode_corpus(base, args.documents, args.held_out_documents)
    torch.save((tokens, held_out), stored)
    print(f"corpus: {len(tokens)} tokens, held out: {len(held_out)}", flush=True)
    return tokenizer, tokens, held_out


def run(args, shape, budget, data):
    """Trains one model; its line of the table."""
    import torch

    tokenizer, tokens, held_out = data
    point = settings(args, *shape, budget)
    begin = time.process_time()
    torch.manual_seed(args.seed)
    model = train_base.build_model(point, tokenizer)
    embeddings = model.model.embed_tokens.weight.numel()
    parameters = sum(p.numel() for p in model.parameters())
    training = {}
    train_base.train(model, tokens, point, "cpu", training)
    steps = training["optimiser_steps"] - 1  # the last one's learning rate is zero
    trained = steps * point.batch * point.context
    return {
        "hidden": point.hidden,
        "layers": point.layers,
        "seed": args.seed,
        "parameters_without_embeddings": parameters - embeddings,
        "parameters": parameters,
        "tokens": trained,
        "compute": 6 * parameters * trained,
        "loss": round(train_base.evaluate(model, held_out, point, "cpu"), 5),
        "train_loss": training["final_training_loss"],
        "learning_rate": point.lr,
        "steps": steps,
        "seconds": round(time.process_time() - begin, 1),
    }


def parameter_count(args, hidden, layers, heads):
    """Of build_model's architecture: what BUDGETS is looked up by."""
    point = settings(args, hidden, layers, heads, args.batch * args.context)
    head = hidden // heads
    attention = 2 * hidden * hidden + 2 * hidden * head * (heads // 2)
    layer = attention + 3 * hidden * point.intermediate + 2 * hidden
    return args.vocab * hidden + layers * layer + hidden


def points(args):
    """(shape, tokens), the cheapest first, so that an interrupted family is still one."""
    shapes = [shape for shape in SIZES if not args.hidden or shape[0] in args.hidden]
    all_points = []
    for shape in shapes:
        parameters = parameter_count(args, *shape)
        budgets = args.tokens or next(budgets for most, budgets in BUDGETS if parameters <= most)
        all_points += [(parameters * budget, shape, budget) for budget in budgets]
    return [(shape, budget) for _, shape, budget in sorted(all_points)]


def read_done(path):
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(int(row[name]) for name in KEY) for row in csv.DictReader(file)}


def append(path, row):
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="CSV file to append to")
    add("--work", type=pathlib.Path, default=ROOT / "build" / "scaling_family", help="tokenizer and corpus")
    add("--hidden", type=int, nargs="+", choices=[shape[0] for shape in SIZES], help="default: all sizes")
    add("--tokens", type=int, nargs="+", help="budgets for every size; default: BUDGETS")
    add("--seed", type=int, default=train_base.generate_corpus.DEFAULT_SEED)
    add("--documents", type=int, default=60_000)
    add("--held_out_documents", type=int, default=500)
    add("--tokenizer_documents", type=int, default=5_000)
    add("--vocab", type=int, default=1024)
    add("--context", type=int, default=128)
    add("--batch", type=int, default=4, help="rows of --context tokens a step")
    # Wider layers want smaller steps of AdamW, in proportion (Yang 2022, muP).
    add("--lr_times_width", type=float, default=0.16, help="peak learning rate times the hidden size")
    add("--threads", type=int, default=1)
    args = parser.parse_args()
    # A folder for each corpus, so that none is taken for another's.
    of_corpus = (args.seed, args.documents, args.held_out_documents, args.tokenizer_documents, args.vocab)
    args.work /= "-".join(map(str, of_corpus))
    for budget in args.tokens or ():
        if budget < args.batch * args.context:
            parser.error(f"--tokens has {budget}; a step alone takes {args.batch * args.context}: give more")
    return args


def main():
    args = parse_args()
    import torch

    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    done = read_done(args.out)
    data = corpus(args)
    for shape, budget in points(args):
        steps = budget // (args.batch * args.context)
        if (shape[0], shape[1], steps * args.batch * args.context, args.seed) in done:
            continue
        row = run(args, shape, budget, data)
        append(args.out, row)
        print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
