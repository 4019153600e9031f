"""Structured domains: JSON records, tables with questions, and SQL over random schemas."""

import json

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
    "age": ("INTEGER", lambda r: r.randint(18, 90), "age"),
    "price": ("INTEGER", lambda r: r.randint(1, 999), "price"),
    "weight": ("INTEGER", lambda r: r.randint(1, 200), "weight"),
    "year": ("INTEGER", lambda r: r.randint(1950, 2025), "year"),
    "points": ("INTEGER", lambda r: r.randint(0, 100), "number of points"),
    "amount": ("INTEGER", lambda r: r.randint(1, 5000), "amount"),
    "rooms": ("INTEGER", lambda r: r.randint(1, 12), "number of rooms"),
}
_AFFIXES = ("{c}", "{c}", "{c}", "{c}_{x}", "{x}_{c}", "the_{c}", "{c}1", "{c}_id")
_TABLES = (
    "people pets houses rooms books songs films ships trains players teams cities rivers flights "
    "lessons visits letters parts tools machines farms crops stores meals members guests"
).split()


def _value_text(value):
    return f"'{value}'" if isinstance(value, str) else str(value)


def _record(rng, low=2, high=6):
    columns = rng.sample(sorted(COLUMNS), rng.randint(low, high))
    return {c: COLUMNS[c][1](rng) for c in columns}


def _sentences(rng, record):
    forms = ("The {k} is {v}.", "{v} is the {k}.", "As {k} we have {v}.", "{k}: {v}.", "It has the {k} {v}.")
    keys = list(record)
    rng.shuffle(keys)
    return " ".join(rng.choice(forms).format(k=COLUMNS[k][2], v=record[k]) for k in keys)


def json_record(rng):
    """Text to JSON, JSON to text, JSON edits, and lists of records, mostly over several lines."""
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
        return f"{text}\n\nset {key} to {_value_text(changed[key])}\n\n{json.dumps(changed, indent=indent)}"
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
        lines.append(rng.choice((
            f"{column} where {columns[other]} is {row[other]}: "
            f"{next(r[i] for r in rows if r[other] == row[other])}",
            f"all {column}: {'; '.join(map(str, values))}",
            f"rows: {len(rows)}",
            f"largest {column}: {max(values)}" if COLUMNS[column][0] == "INTEGER" else
            f"first {column}: {values[0]}",
        )))
    return "\n".join(lines)


def _schema(rng):
    columns = rng.sample(sorted(COLUMNS), rng.randint(3, 6))
    if not any(COLUMNS[c][0] == "INTEGER" for c in columns):
        columns.append("year")
    names = {}
    for c in columns:
        form = rng.choice(_AFFIXES)
        names[c] = form.format(c=c, x=w.made_up_word(rng)[:4])
    stem = rng.choice(_TABLES) if rng.random() < 0.7 else w.made_up_word(rng) + "s"
    return stem, columns, names


def _condition(rng, columns, names):
    column = rng.choice(columns)
    kind, make, word = COLUMNS[column]
    value = make(rng)
    if kind == "TEXT":
        phrases = ("with the {w} {v}", "whose {w} is {v}", "that have {v} as {w}", "where the {w} equals {v}")
        op = "="
    else:
        op, phrases = rng.choice((
            (">", ("with {w} above {v}", "whose {w} is more than {v}", "with {aw} larger than {v}")),
            ("<", ("with {w} below {v}", "whose {w} is less than {v}", "with {aw} under {v}")),
            ("=", ("with {w} {v}", "whose {w} is exactly {v}")),
        ))
    return rng.choice(phrases).format(w=word, aw=w.an(word), v=value), f"{names[column]} {op} {_value_text(value)}", column


def _query(rng, stem, columns, names):
    """A description and its query, as a list of clauses."""
    numbers = [c for c in columns if COLUMNS[c][0] == "INTEGER"]
    texts = [c for c in columns if COLUMNS[c][0] == "TEXT"] or numbers
    form = rng.randrange(7)
    column, number = rng.choice(columns), rng.choice(numbers)
    word, number_word = COLUMNS[column][2], COLUMNS[number][2]
    tail = []
    if form <= 1:
        said = rng.choice((f"show the {word} of the {stem}", f"the {word} of all {stem}", f"get each {word} from {stem}"))
        what = names[column]
    elif form == 2:
        said, what = rng.choice((f"count the {stem}", f"the number of {stem}", f"how many {stem} are there")), "COUNT(*)"
    elif form == 3:
        function, adjective = rng.choice((("AVG", "average"), ("MAX", "largest"), ("MIN", "smallest"), ("SUM", "total")))
        said, what = f"the {adjective} {number_word} of the {stem}", f"{function}({names[number]})"
    elif form == 4:
        n = rng.randint(1, 20)
        down = rng.random() < 0.5
        said = f"the {word} of the {n} {stem} with the {'largest' if down else 'smallest'} {number_word}"
        what, tail = names[column], [f"ORDER BY {names[number]}{' DESC' if down else ''}", f"LIMIT {n}"]
    elif form == 5:
        group = rng.choice(texts)
        said, what = f"the number of {stem} for each {COLUMNS[group][2]}", f"{names[group]}, COUNT(*)"
        tail = [f"GROUP BY {names[group]}"]
    else:
        said, what = rng.choice((f"all {stem}", f"everything about the {stem}")), "*"
    where, used = [], set()
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        phrase, condition, on = _condition(rng, columns, names)
        if on not in used:
            used.add(on)
            said += (" and " if where else " ") + phrase
            where.append(condition)
    clauses = [f"SELECT {what}", f"FROM {stem}"]
    if where:
        clauses.append("WHERE " + " AND ".join(where))
    return said, clauses + tail


def sql(rng):
    """A CREATE TABLE, at times rows, then commented queries against that schema."""
    stem, columns, names = _schema(rng)
    body = ",\n".join(f"  {names[c]} {COLUMNS[c][0]}" for c in columns)
    lines = [f"CREATE TABLE {stem} (\n{body}\n);", ""]
    if rng.random() < 0.35:
        for _ in range(rng.randint(1, 3)):
            values = ", ".join(_value_text(COLUMNS[c][1](rng)) for c in columns)
            lines.append(f"INSERT INTO {stem} VALUES ({values});")
        lines.append("")
    joiner = rng.choice(("\n", "\n", " "))
    for _ in range(rng.randint(2, 6)):
        said, clauses = _query(rng, stem, columns, names)
        lines.append(f"-- {said}\n{joiner.join(clauses)};")
    return "\n".join(lines)
