"""Arithmetic, dates, and the copying patterns that teach induction (repeat what followed last time)."""

import datetime

from . import common
from . import words as w


def arithmetic(rng):
    """Small sums as equations, in words, and step by step."""
    lines = []
    for _ in range(rng.randint(4, 14)):
        a, b = rng.randint(0, 99), rng.randint(0, 99)
        op = rng.randrange(6)
        if op == 0:
            lines.append(f"{a} + {b} = {a + b}")
        elif op == 1:
            lines.append(f"{max(a, b)} - {min(a, b)} = {abs(a - b)}")
        elif op == 2:
            a, b = rng.randint(0, 12), rng.randint(0, 12)
            lines.append(f"{a} * {b} = {a * b}")
        elif op == 3:
            obj = w.plural(rng.choice(w.OBJECTS))
            who = rng.choice(w.FIRST_NAMES)
            lines.append(f"{who} has {a} {obj} and gets {b} more. Now {who} has {a + b} {obj}.")
        elif op == 4:
            lines.append(f"Which is larger, {a} or {b}? {'They are equal' if a == b else max(a, b)}.")
        else:
            a, b = rng.randint(0, 10), rng.randint(0, 10)
            lines.append(f"{w.NUMBER_WORDS[a]} plus {w.NUMBER_WORDS[b]} is {w.NUMBER_WORDS[a + b]}.")
    return "\n".join(lines)


def dates(rng):
    """Calendar dates in several spellings, with neighbours and weekdays."""
    lines = []
    for _ in range(rng.randint(3, 9)):
        day = datetime.date(1990, 1, 1) + datetime.timedelta(days=rng.randrange(14600))
        long = f"{day.day} {w.MONTHS[day.month - 1]} {day.year}"
        after = day + datetime.timedelta(days=rng.choice((1, 1, 2, 7)))
        lines.append(
            rng.choice(
                (
                    f"{long} is written {day.isoformat()}.",
                    f"{day.isoformat()} -> {long}",
                    f"{long} was a {w.WEEKDAYS[day.weekday()]}.",
                    f"{(after - day).days} days after {day.isoformat()} comes {after.isoformat()}.",
                    f"The meeting with {w.person(rng)} is on {long} in {w.city(rng)}.",
                    f"year {day.year}, month {day.month}, day {day.day}: {day.isoformat()}",
                )
            )
        )
    return "\n".join(lines)


def _value(rng):
    return rng.choice(
        (
            w.person,
            w.city,
            w.product,
            w.code,
            w.made_up_word,
            common.word,
            common.phrase,
            common.identifier,
            lambda r: common.word(r).capitalize(),
            lambda r: str(r.randint(0, 9999)),
            lambda r: r.choice(w.OBJECTS),
        )
    )(rng)


def echo(rng):
    """Repeat a phrase or list exactly, at times several times or between quotation marks."""
    items = [_value(rng) for _ in range(rng.randint(1, 6))]
    text = ", ".join(items)
    form = rng.randrange(6)
    if form == 0:
        return f"Repeat: {text}\nAnswer: {text}"
    if form == 1:
        return "\n".join([" ".join(items)] * rng.randint(2, 5))
    if form == 2:
        return f'{rng.choice(w.FIRST_NAMES)} said "{text}". I also said "{text}".'
    if form == 3:
        return f"forward: {text}\nbackward: {', '.join(reversed(items))}"
    if form == 4:
        return f"list: {text}\nfirst: {items[0]}\nlast: {items[-1]}\ncount: {len(items)}"
    return "upper and lower\n" + "\n".join(f"{i} | {i.upper()} | {i.lower()}" for i in items)


def lookup(rng):
    """Key and value pairs, then some of the keys again with their values."""
    keys = list(dict.fromkeys(_value(rng) for _ in range(rng.randint(3, 10))))
    table = {k: _value(rng) for k in keys}
    sep, mark = rng.choice(((": ", "\n"), (" = ", "\n"), (" -> ", "\n"), (" is ", ". "), (" => ", "; ")))
    first = mark.join(k + sep + v for k, v in table.items())
    again = rng.sample(keys, rng.randint(1, len(keys)))
    return first + mark + rng.choice(("", "---\n", "again\n")) + mark.join(k + sep + table[k] for k in again)


_RULES = (
    lambda v: f"<{v}>",
    lambda v: f"'{v}'",
    lambda v: f"[{v}]",
    lambda v: f"{v} {v}",
    lambda v: v.upper(),
    lambda v: v.replace(" ", "_").lower(),
    lambda v: f"name={v!r}",
    lambda v: f'{{"value": "{v}"}}',
    lambda v: v.split()[-1],
    lambda v: v.split()[0],
    lambda v: f"SELECT '{v}';",
    lambda v: f"set {v.lower().replace(' ', '-')}",
    lambda v: f"{v}!",
)


def rule_by_example(rng):
    """A random rewriting rule shown by examples: input, output, input, output, ..."""
    rule, prefix, suffix = rng.choice(_RULES), "", ""
    if rng.random() < 0.5:
        prefix, suffix = w.made_up_word(rng) + " ", rng.choice(("", ".", " " + w.made_up_word(rng)))
    make = rng.choice((w.person, w.city, w.product, w.code, w.made_up_word, common.word, common.phrase))
    before, after = rng.choice((("in: ", "\nout: "), ("", " -> "), ("< ", "\n> "), ("", "\t")))
    values = [make(rng) for _ in range(rng.randint(3, 9))]
    return "\n".join(f"{before}{v}{after}{prefix}{rule(v)}{suffix}" for v in values)


def vocabulary(rng):
    """A small invented language: word lists and sentences translated word by word."""
    nouns = rng.sample(rng.choice((w.OBJECTS + w.ANIMALS, common.WORDS)), rng.randint(4, 8))
    lexicon = {n: w.made_up_word(rng) for n in nouns}
    lines = [f"{n} = {t}" for n, t in lexicon.items()]
    for _ in range(rng.randint(2, 5)):
        some = rng.sample(nouns, rng.randint(2, 4))
        lines.append(" ".join(some) + " = " + " ".join(lexicon[n] for n in some))
    return "\n".join(lines)
