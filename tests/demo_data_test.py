#!/usr/bin/env python3
"""The demo's eval sets prove something: no prompt of theirs is in the training set."""
import json
import pathlib
import sys

DATA = pathlib.Path(__file__).resolve().parent.parent / "deploy" / "demo" / "data"


def prompts(path):
    return [json.loads(line)["prompt"] for line in path.read_text().splitlines()]


def main():
    faults = 0
    for task in ("sql", "tickets"):
        train, evaluation = (prompts(DATA / f"{task}_{part}.jsonl") for part in ("train", "eval"))
        shared = set(train) & set(evaluation)
        print(f"{task}: {len(train)} train, {len(evaluation)} eval, {len(shared)} eval prompts in train")
        faults += len(shared) + (len(evaluation) < 100) + (len(set(evaluation)) < len(evaluation))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
