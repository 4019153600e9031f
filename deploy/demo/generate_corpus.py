#!/usr/bin/env python3
"""Writes the training text of the demo base model: documents drawn from seeded templates.

Document number i depends on (seed, i) alone, so any range can be made on its own, by any number of
processes, with the same result. Python's standard library is all it needs.

  generate_corpus.py --count=5                 prints five documents
  generate_corpus.py --count=200000 --out=c.txt   one document per line, as JSON strings
"""

import argparse
import json
import random
import sys

from corpus import facts, office, patterns, prose, sql, structured

# Shares of the documents; stories and SQL are longer than the rest.
DOMAINS = (
    (14, prose.story),
    (9, prose.dialogue),
    (9, office.letter),
    (6, office.inbox),
    (6, office.filters),
    (12, facts.facts),
    (3, facts.who),
    (2, facts.many_facts),
    (14, structured.json_record),
    (6, structured.table),
    (15, sql.sql),
    (4, patterns.arithmetic),
    (4, patterns.dates),
    (4, patterns.echo),
    (5, patterns.lookup),
    (5, patterns.rule_by_example),
    (2, patterns.vocabulary),
)
DEFAULT_SEED = 20260101
# Starts of the demo tasks' prompts and answers: a document with one of them is drawn again.
RESERVED = ("Question:", "SQL:", "Ticket:", "Route:")
_WEIGHTS = [weight for weight, _ in DOMAINS]


def document(seed, index):
    """The text of document `index` (>= 0)."""
    rng = random.Random(f"{seed}/{index}")
    while True:
        ((_, make),) = rng.choices(DOMAINS, weights=_WEIGHTS)
        text = make(rng)
        if not any(word in text for word in RESERVED):
            return text


def documents(seed, start, count):
    for index in range(start, start + count):
        yield document(seed, index)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--start", type=int, default=0, help="number of the first document")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument(
        "--out", help="file of JSON strings, one document per line; default: readable text on stdout"
    )
    args = parser.parse_args()
    if args.out:
        with open(args.out, "w", encoding="utf-8") as out:
            for text in documents(args.seed, args.start, args.count):
                out.write(json.dumps(text) + "\n")
        return
    for text in documents(args.seed, args.start, args.count):
        sys.stdout.write(text + "\n" + "=" * 40 + "\n")


if __name__ == "__main__":
    main()
