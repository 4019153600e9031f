#!/usr/bin/env python3
"""The lines of reproduce_lora as Markdown tables: mean eval loss over seeds, in nats per completion token.

  reproduce_table.py results/reproduce_lora.jsonl
"""

import json
import statistics
import sys
from collections import defaultdict


def read(path):
    """Lines without an error; a run that stands there twice counts once, the later one."""
    runs = {}
    with open(path, encoding="utf-8") as file:
        for line in map(json.loads, file):
            if "error" not in line:
                key = [line[name] for name in ("table", "task", "method", "weights", "rank", "alpha",
                                               "learning_rate", "steps", "batch", "seed")]
                runs[tuple(key)] = line
    return list(runs.values())


def cells(runs, row, column):
    """{row: {column: losses over seeds}}, rows and columns in the order of the file."""
    table = defaultdict(lambda: defaultdict(list))
    for run in runs:
        table[row(run)][column(run)].append(run["eval_loss"])
    return table


def text(losses):
    mean = statistics.mean(losses)
    if len(losses) == 1:
        return f"{mean:.4f}"
    return f"{mean:.4f} ({min(losses):.4f} to {max(losses):.4f})"


def markdown(table, names, column_name):
    """Rows are tuples of the columns `names`; `column_name` is put before the value that each other one is of."""
    columns = sorted({column for by_column in table.values() for column in by_column})
    lines = [[*names, *(f"{column_name} {column:g}" for column in columns)], ["---"] * (len(names) + len(columns))]
    for row, by_column in table.items():
        lines.append([*row, *(text(by_column[c]) if c in by_column else "" for c in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def heading(run, runs):
    """What all runs of a table share; one table must not mix budgets."""
    seeds = sorted({one["seed"] for one in runs})
    return (f"{run['task']}, {run['steps']} steps of {run['batch']} samples, alpha {run['alpha']:g}, "
            f"seeds {', '.join(map(str, seeds))}")


def groups(runs, table):
    found = defaultdict(list)
    for run in runs:
        if run["table"] == table:
            found[run["task"], run["steps"], run["batch"], run["alpha"]].append(run)
    return found.values()


def rank_tables(runs):
    for group in groups(runs, "rank"):
        for rate in sorted({run["learning_rate"] for run in group}):
            part = [run for run in group if run["learning_rate"] == rate]
            table = cells(part, lambda run: (run["weights"],), lambda run: run["rank"])
            yield (f"Rank by weight type: {heading(part[0], part)}, learning rate {rate:g}",
                   markdown(table, ["weights"], "rank"))


def full_rank_tables(runs):
    for group in groups(runs, "full_rank"):
        table = cells(group, lambda run: (run["method"], run["base"], str(run["rank"]),
                                          f"{run['trainable_parameters']:,}"), lambda run: run["learning_rate"])
        yield (f"Full rank: {heading(group[0], group)}",
               markdown(table, ["method", "base", "rank", "trained parameters"], "learning rate"))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    runs = read(sys.argv[1])
    if not runs:
        sys.exit(f"{sys.argv[1]}: no run without an error; make some with reproduce_lora --output={sys.argv[1]}")
    for title, table in [*full_rank_tables(runs), *rank_tables(runs)]:
        print(f"{title}\n\n{table}\n")


if __name__ == "__main__":
    main()
