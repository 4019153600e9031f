"""Structured domains: JSON records and tables with questions; the columns also serve the SQL domain."""

import json

from . import common
from . import words as w

# column: (type, value generator, words that a sentence uses for it)
COLUMNS = {
    "name": ("TEXT", w.person, "name"),
    "city": ("TEXT", w.city, "city"),
    "country": ("TEXT", lambda r: r.choice(w.COUNTRIES), "country"),
    "job": ("TEXT", lambda r: r.choice(w.JOBS), "job"),
    "team": ("TEXT", lambda r: r.choice(w.DEPARTMENTS), "team"),
    "colour": ("TEXT", lambda r: r.choice(w.COLOURS), "colour"),
    "animal": ("TEXT", lambda r: r.choice(w.ANIMALS), "animal"),
    "item": ("TEXT", w.product, "item"),
    "label": ("TEXT", w.made_up_word, "label"),
    "code": ("TEXT", w.code, "code"),
    "month": ("TEXT", lambda r: r.choice(w.MONTHS), "month"),
    "sport": ("TEXT", lambda r: r.choice(w.SPORTS), "sport"),
    "maker": ("TEXT", lambda r: w.product(r).split()[0], "maker"),
    "owner": ("TEXT", w.person, "owner"),
    "status": ("TEXT", lambda r: r.choice(w.STATUSES), "status"),
    "kind": ("TEXT", lambda r: r.choice(w.KINDS), "kind"),
    "level": ("TEXT", lambda r: r.choice(w.LEVELS), "level"),
    "salary": ("INTEGER", lambda r: r.randint(10, 99) * 100, "salary"),
    "stock": ("INTEGER", lambda r: r.randint(0, 200), "stock"),
    "age": ("INTEGER", lambda r: r.randint(18, 90), "age"),
    "price": ("INTEGER", lambda r: r.randint(1, 999), "price"),
    "weight": ("INTEGER", lambda r: r.randint(1, 200), "weight"),
    "year": ("INTEGER", lambda r: r.randint(1950, 2025), "year"),
    "points": ("INTEGER", lambda r: r.randint(0, 100), "number of points"),
    "amount": ("INTEGER", lambda r: r.randint(1, 5000), "amount"),
    "rooms": ("INTEGER", lambda r: r.randint(1, 12), "number of rooms"),
}


def value_text(value):
    """A literal: strings between single quotes."""
    return f"'{value}'" if isinstance(value, str) else str(value)


def _record(rng, low=2, high=6):
    columns = rng.sample(sorted(COLUMNS), rng.randint(low, high))
    return {c: COLUMNS[c][1](rng) for c in columns}


def _sentences(rng, record):
    forms = ("The {k} is {v}.", "{v} is the {k}.", "As {k} we have {v}.", "{k}: {v}.", "It has the {k} {v}.")
    keys = list(record)
    rng.shuffle(keys)
    return " ".join(rng.choice(forms).format(k=COLUMNS[k][2], v=record[k]) for k in keys)


def _free_record(rng):
    """A record of arbitrary keys, its fields in words, and the record again on one line."""
    makers = (
        common.word,
        common.phrase,
        w.person,
        w.code,
        w.city,
        w.product,
        lambda r: r.randint(0, 9999),
        lambda r: r.random() < 0.5,
        lambda r: None,
    )
    record = {common.identifier(rng): rng.choice(makers)(rng) for _ in range(rng.randint(2, 7))}
    said = "\n".join(f"{k} is {json.dumps(v)}" for k, v in record.items())
    order = [said, json.dumps(record), json.dumps(record, indent=2)]
    rng.shuffle(order)
    return "\n\n".join(order[: rng.choice((2, 2, 3))])


def json_record(rng):
    """Text to JSON, JSON to text, JSON edits, and lists of records, mostly over several lines."""
    if rng.random() < 0.3:
        return _free_record(rng)
    record = _record(rng)
    indent = rng.choice((None, 2, 2, 2))
    text = json.dumps(record, indent=indent)
    form = rng.randrange(5)
    if form == 0:
        return f"Note. {_sentences(rng, record)}\n\nAs a record:\n{text}"
    if form == 1:
        return f"{text}\n\nIn words: {_sentences(rng, record)}"
    if form == 2:
        key = rng.choice(list(record))
        changed = dict(record, **{key: COLUMNS[key][1](rng)})
        return f"{text}\n\nset {key} to {value_text(changed[key])}\n\n{json.dumps(changed, indent=indent)}"
    if form == 3:
        rows = [{k: COLUMNS[k][1](rng) for k in record} for _ in range(rng.randint(2, 5))]
        key = rng.choice(list(record))
        values = json.dumps([row[key] for row in rows])
        return f"{json.dumps(rows, indent=indent)}\n\n{key}: {values}"
    nested = {"id": w.code(rng), "data": record, "ok": rng.random() < 0.5, "note": None}
    asked = "\n".join(f"data.{k} = {json.dumps(v)}" for k, v in record.items())
    return f"{json.dumps(nested, indent=indent)}\n\nid = {json.dumps(nested['id'])}\n{asked}"


def table(rng):
    """A Markdown, CSV or aligned table, with questions whose answers are computed."""
    columns = rng.sample(sorted(COLUMNS), rng.randint(2, 5))
    rows = [[COLUMNS[c][1](rng) for c in columns] for _ in range(rng.randint(3, 8))]
    form = rng.randrange(3)
    if form == 0:
        lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    else:
        sep = (",", "; ")[form - 1]
        lines = [sep.join(columns)] + [sep.join(map(str, row)) for row in rows]
    lines.append("")
    for i, column in enumerate(columns):
        values = [row[i] for row in rows]
        row = rng.choice(rows)
        other = rng.choice([j for j in range(len(columns)) if j != i])
        lines.append(
            rng.choice(
                (
                    f"{column} where {columns[other]} is {row[other]}: "
                    f"{next(r[i] for r in rows if r[other] == row[other])}",
                    f"all {column}: {'; '.join(map(str, values))}",
                    f"rows: {len(rows)}",
                    (
                        f"largest {column}: {max(values)}"
                        if COLUMNS[column][0] == "INTEGER"
                        else f"first {column}: {values[0]}"
                    ),
                )
            )
        )
    return "\n".join(lines)
