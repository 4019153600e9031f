"""SQL over random schemas that the text shows: CREATE TABLE, INSERT, and commented queries."""

from . import common
from . import words as w
from .structured import COLUMNS, value_text

_TABLES = (
    "people pets houses rooms books songs films ships trains players teams cities rivers flights "
    "lessons visits letters parts tools machines farms crops stores meals members guests orders "
    "products customers employees invoices bookings staff suppliers offices"
).split()
_PREFIXES = "home ship full first last total unit order item start end old new main work".split()

# Natural wordings of a condition; columns that are not here use the general ones.
_EQUAL = {
    "name": ("called {v}", "named {v}", "with the name {v}"),
    "city": ("from {v}", "in {v}", "based in {v}", "living in {v}", "who live in {v}"),
    "country": ("from {v}", "in {v}"),
    "job": ("working as {v}", "who work as {v}"),
    "team": ("in the {v} team", "working in {v}", "in {v}"),
    "colour": ("that are {v}", "in {v}"),
    "month": ("of {v}", "in {v}"),
    "maker": ("made by {v}", "from {v}", "by {v}"),
    "owner": ("owned by {v}", "of {v}", "placed by {v}", "that belong to {v}"),
    "status": ("that are {v}", "marked as {v}", "still {v}"),
    "kind": ("of the kind {v}", "in the {v} group"),
    "level": ("on {v} level", "with {v} level"),
}
_MORE = {
    "age": ("older than {v}",),
    "weight": ("heavier than {v}",),
    "price": ("that cost more than {v} euros", "over {v} euros", "above {v} euros", "dearer than {v}"),
    "amount": ("over {v} euros", "worth more than {v} euros"),
    "year": ("after {v}", "that came after {v}", "since {v}"),
    "salary": ("who earn more than {v} euros", "paid above {v} euros"),
    "stock": ("with more than {v} pieces in stock",),
    "points": ("with more than {v} points",),
    "rooms": ("with more than {v} rooms",),
}
_LESS = {
    "age": ("younger than {v}",),
    "weight": ("lighter than {v}",),
    "price": ("that cost less than {v} euros", "under {v} euros", "below {v} euros", "cheaper than {v}"),
    "amount": ("under {v} euros", "worth less than {v} euros"),
    "year": ("before {v}", "that came before {v}"),
    "salary": ("who earn less than {v} euros", "paid below {v} euros"),
    "stock": ("with fewer than {v} pieces in stock",),
    "points": ("with fewer than {v} points",),
    "rooms": ("with fewer than {v} rooms",),
}
_ANY_EQUAL = ("with the {w} {v}", "whose {w} is {v}", "that have {v} as {w}", "where the {w} equals {v}")
_ANY_MORE = ("with {w} above {v}", "whose {w} is more than {v}", "with {aw} larger than {v}")
_ANY_LESS = ("with {w} below {v}", "whose {w} is less than {v}", "with {aw} under {v}")


def _schema(rng):
    """(table, columns by meaning, their names in this schema)."""
    columns = rng.sample(sorted(COLUMNS), rng.randint(3, 6))
    if not any(COLUMNS[c][0] == "INTEGER" for c in columns):
        columns.append("year")
    names = {}
    for c in columns:
        if rng.random() < 0.15:
            names[c] = common.identifier(rng)
            continue
        x = rng.choice(_PREFIXES) if rng.random() < 0.5 else w.made_up_word(rng)[:4]
        names[c] = rng.choice(
            ("{c}", "{c}", "{c}", "{c}_{x}", "{x}_{c}", "{x}_{c}", "{c}1", "{c}_id")
        ).format(c=c, x=x)
    stem = rng.choice(_TABLES)
    if rng.random() < 0.3:
        stem = rng.choice((w.made_up_word, common.word))(rng) + "s"
    return stem, columns, names


def _condition(rng, columns, names):
    """(words after the noun, SQL condition, column)."""
    column = rng.choice(columns)
    kind, make, word = COLUMNS[column]
    value = make(rng)
    if kind == "TEXT":
        op, special, general = "=", _EQUAL, _ANY_EQUAL
    else:
        op, special, general = rng.choice(
            ((">", _MORE, _ANY_MORE), ("<", _LESS, _ANY_LESS), ("=", {}, _ANY_EQUAL))
        )
    phrases = special.get(column, general) if rng.random() < 0.7 else general
    phrase = rng.choice(phrases).format(w=word, aw=w.an(word), v=value)
    return phrase, f"{names[column]} {op} {value_text(value)}", column


def _wish(rng, columns, names):
    """(wording with {n} for the noun and its conditions, selected expression, closing clauses)."""
    numbers = [c for c in columns if COLUMNS[c][0] == "INTEGER"]
    texts = [c for c in columns if COLUMNS[c][0] == "TEXT"] or numbers
    column, number, group = rng.choice(columns), rng.choice(numbers), rng.choice(texts)
    word, number_word, group_word = COLUMNS[column][2], COLUMNS[number][2], COLUMNS[group][2]
    form = rng.randrange(7)
    if form <= 1:
        said = rng.choice(
            (
                "show the {w} of the {{n}}",
                "the {w} of all {{n}}",
                "get each {w} from {{n}}",
                "What is the {w} of the {{n}}?",
                "list the {w} for {{n}}",
            )
        )
        return said.format(w=word), names[column], []
    if form == 2:
        return (
            rng.choice(
                (
                    "count the {n}",
                    "the number of {n}",
                    "how many {n} are there",
                    "How many {n} do we have?",
                    "number of {n}",
                )
            ),
            "COUNT(*)",
            [],
        )
    if form == 3:
        function, adjective = rng.choice(
            (
                ("AVG", "average"),
                ("AVG", "mean"),
                ("MAX", "largest"),
                ("MAX", "highest"),
                ("MIN", "smallest"),
                ("MIN", "lowest"),
                ("SUM", "total"),
                ("SUM", "summed"),
            )
        )
        said = rng.choice(
            ("the {a} {w} of the {{n}}", "What is the {a} {w} of all {{n}}?", "{a} {w} of {{n}}")
        )
        return said.format(a=adjective, w=number_word), f"{function}({names[number]})", []
    if form == 4:
        count = rng.randint(1, 20)
        adjective, order = rng.choice(
            (("largest", " DESC"), ("highest", " DESC"), ("smallest", ""), ("lowest", ""))
        )
        said = rng.choice(("the {w} of the {c} {{n}} with the {a} {k}", "{w} of {c} {{n}} by {a} {k}"))
        clauses = [f"ORDER BY {names[number]}{order}", f"LIMIT {count}"]
        return said.format(w=word, c=count, a=adjective, k=number_word), names[column], clauses
    if form == 5:
        said = rng.choice(
            ("the number of {{n}} for each {w}", "count {{n}} by {w}", "how many {{n}} per {w}")
        )
        return said.format(w=group_word), f"{names[group]}, COUNT(*)", [f"GROUP BY {names[group]}"]
    return rng.choice(("all {n}", "everything about the {n}", "show all {n}")), "*", []


def _query(rng, stem, columns, names):
    """A description and the clauses of its query."""
    said, what, closing = _wish(rng, columns, names)
    noun, where, used = stem, [], set()
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        phrase, condition, on = _condition(rng, columns, names)
        if on not in used:
            used.add(on)
            noun += (" and " if where else " ") + phrase
            where.append(condition)
    clauses = [f"SELECT {what}", f"FROM {stem}"]
    if where:
        clauses.append("WHERE " + " AND ".join(where))
    return said.format(n=noun), clauses + closing


def sql(rng):
    """A CREATE TABLE, at times rows, then commented queries against that schema."""
    stem, columns, names = _schema(rng)
    body = ",\n".join(f"  {names[c]} {COLUMNS[c][0]}" for c in columns)
    lines = [f"CREATE TABLE {stem} (\n{body}\n);", ""]
    if rng.random() < 0.3:
        for _ in range(rng.randint(1, 3)):
            values = ", ".join(value_text(COLUMNS[c][1](rng)) for c in columns)
            lines.append(f"INSERT INTO {stem} VALUES ({values});")
        lines.append("")
    joiner = rng.choice(("\n", " "))
    for _ in range(rng.randint(2, 6)):
        said, clauses = _query(rng, stem, columns, names)
        lines.append(f"-- {said}\n{joiner.join(clauses)};")
    return "\n".join(lines)
