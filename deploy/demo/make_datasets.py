#!/usr/bin/env python3
"""Writes data/{sql,tickets}_{train,eval}.jsonl: one {"prompt": ..., "completion": ...} object per line.

A completion is what must follow the prompt, up to the end of the text. A quarter of the combinations
(SQL: table, selected expression, columns in the condition; tickets: problem and urgency sentence)
is in eval alone, and eval takes its names, cities and makers from lists that training does not see.
So no eval prompt is in training, which this script also checks.
"""

import argparse
import json
import pathlib
import random
import zlib

from tasks import sql, tickets

TASKS = {"sql": sql, "tickets": tickets}
DEFAULT_SEED = 7
HERE = pathlib.Path(__file__).resolve().parent


def _is_eval_only(combination):
    return zlib.crc32(repr(combination).encode()) % 4 == 0


def make(task, seed, count, for_eval, exclude=()):
    """`count` different examples; each eval example is of an eval-only combination or has held-out values."""
    rng = random.Random(f"{task}/{seed}/{'eval' if for_eval else 'train'}")
    seen, out = set(exclude), []
    while len(out) < count:
        prompt, completion, combination = TASKS[task].example(rng, for_eval)
        if prompt in seen or (not for_eval and _is_eval_only(combination)):
            continue
        seen.add(prompt)
        out.append({"prompt": prompt, "completion": completion})
    return out


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--train", type=int, default=2000, help="training examples per task")
    parser.add_argument("--eval", type=int, default=120, help="eval examples per task")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "data")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        train = make(task, args.seed, args.train, False)
        held = make(task, args.seed, args.eval, True, [row["prompt"] for row in train])
        if {row["prompt"] for row in train} & {row["prompt"] for row in held}:
            raise SystemExit(f"{task}: an eval prompt is in training")
        for part, rows in (("train", train), ("eval", held)):
            with open(args.out / f"{task}_{part}.jsonl", "w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            print(f"{task}_{part}.jsonl: {len(rows)} examples")


if __name__ == "__main__":
    main()
