"""Questions to SQL over one fixed schema of a shop, which only the examples reveal.

customers(full_name, home_city, joined_year, tier)
orders(order_no, buyer_name, ship_city, total_eur, state)
products(product_name, maker, price_eur, stock_qty, category)
staff(staff_name, department, salary_eur, office_city, hired_year)
"""

from . import values

PROMPT = "Question: {question}\nSQL:"

_CATEGORIES = "audio garden kitchen office outdoor sports toys lighting".split()
_TIERS = "bronze silver gold platinum".split()
_STATES = "open paid shipped cancelled".split()
_DEPARTMENTS = "sales finance legal support design research logistics security marketing".split()


def _of(items):
    return lambda rng, held_out: rng.choice(items)


def _step(low, high, step=1):
    return lambda rng, held_out: rng.randrange(low, high + 1, step)


# column: (value, ((operator, phrases after the noun), ...), name in a question or None)
_TABLES = {
    "customers": (
        ("customers", "clients"),
        "full_name",
        {
            "full_name": (None, (), "names"),
            "home_city": (
                values.city,
                (("=", ("from {v}", "who live in {v}", "living in {v}")),),
                "home cities",
            ),
            "joined_year": (
                _step(2005, 2024),
                (
                    (">", ("who joined after {v}", "registered after {v}")),
                    ("<", ("who joined before {v}", "registered before {v}")),
                ),
                None,
            ),
            "tier": (_of(_TIERS), (("=", ("in the {v} tier", "with {v} status")),), "tiers"),
        },
        (),
        ("home_city", "tier"),
    ),
    "orders": (
        ("orders", "purchases"),
        "order_no",
        {
            "order_no": (None, (), "numbers"),
            "buyer_name": (values.person, (("=", ("placed by {v}", "made by {v}")),), "buyers"),
            "ship_city": (values.city, (("=", ("sent to {v}", "going to {v}", "shipped to {v}")),), None),
            "total_eur": (
                _step(20, 900, 5),
                (
                    (">", ("over {v} euros", "worth more than {v} euros")),
                    ("<", ("under {v} euros", "worth less than {v} euros")),
                ),
                "totals",
            ),
            "state": (_of(_STATES), (("=", ("that are {v}", "marked as {v}")),), None),
        },
        (("total_eur", "order value"),),
        ("ship_city", "state"),
    ),
    "products": (
        ("products", "articles"),
        "product_name",
        {
            "product_name": (None, (), "names"),
            "maker": (values.brand, (("=", ("made by {v}", "from {v}")),), "makers"),
            "price_eur": (
                _step(5, 500, 5),
                (
                    (">", ("that cost more than {v} euros", "above {v} euros")),
                    ("<", ("that cost less than {v} euros", "below {v} euros")),
                ),
                "prices",
            ),
            "stock_qty": (
                _step(1, 99),
                (
                    (">", ("with more than {v} pieces in stock",)),
                    ("<", ("with fewer than {v} pieces in stock",)),
                ),
                None,
            ),
            "category": (_of(_CATEGORIES), (("=", ("in the {v} category", "of the type {v}")),), None),
        },
        (("price_eur", "price"), ("stock_qty", "stock")),
        ("maker", "category"),
    ),
    "staff": (
        ("employees", "colleagues"),
        "staff_name",
        {
            "staff_name": (None, (), "names"),
            "department": (
                _of(_DEPARTMENTS),
                (("=", ("in the {v} department", "working in {v}")),),
                "departments",
            ),
            "salary_eur": (
                _step(2000, 9000, 100),
                (
                    (">", ("who earn more than {v} euros", "paid above {v} euros")),
                    ("<", ("who earn less than {v} euros", "paid below {v} euros")),
                ),
                "salaries",
            ),
            "office_city": (values.city, (("=", ("based in {v}", "in the {v} office")),), None),
            "hired_year": (
                _step(1995, 2024),
                ((">", ("hired after {v}",)), ("<", ("hired before {v}",))),
                None,
            ),
        },
        (("salary_eur", "salary"),),
        ("department", "office_city"),
    ),
}
_GROUP_WORDS = {
    "home_city": "home city",
    "tier": "tier",
    "ship_city": "shipping city",
    "state": "state",
    "maker": "maker",
    "category": "category",
    "department": "department",
    "office_city": "office city",
}
_AGGREGATES = (("AVG", "average"), ("MAX", "highest"), ("MIN", "lowest"), ("SUM", "total"))


def _ask(rng, table):
    """(kind, question with {n} for noun and conditions, selected expression, clauses at the end)."""
    nouns, key, columns, numbers, groups = _TABLES[table]
    kind = rng.choice(
        ("count", "count", "list", "list", "column", "group") + ("aggregate", "top") * bool(numbers)
    )
    if kind == "count":
        forms = ("How many {n} are there?", "Count the {n}.", "What is the number of {n}?")
        return kind, rng.choice(forms), "COUNT(*)", ""
    if kind == "list":
        return kind, rng.choice(("List all {n}.", "Show the {n}.", "Which {n} do we have?")), key, ""
    if kind == "column":
        column = rng.choice([c for c, (_, _, word) in columns.items() if word])
        question = rng.choice(("Give me the {w} of the {{n}}.", "Show the {w} of all {{n}}."))
        return kind, question.format(w=columns[column][2]), column, ""
    if kind == "group":
        column = rng.choice(groups)
        question = rng.choice(("Count the {{n}} per {w}.", "How many {{n}} are there for each {w}?"))
        return kind, question.format(w=_GROUP_WORDS[column]), f"{column}, COUNT(*)", f" GROUP BY {column}"
    column, word = rng.choice(numbers)
    if kind == "aggregate":
        function, adjective = rng.choice(_AGGREGATES)
        question = rng.choice(("What is the {a} {w} of the {{n}}?", "Tell me the {a} {w} of all {{n}}."))
        return kind, question.format(a=adjective, w=word), f"{function}({column})", ""
    count, (adjective, order) = rng.randint(2, 20), rng.choice((("highest", " DESC"), ("lowest", "")))
    question = rng.choice(("Show the {c} {{n}} with the {a} {w}.", "Which {c} {{n}} have the {a} {w}?"))
    tail = f" ORDER BY {column}{order} LIMIT {count}"
    return kind, question.format(c=count, a=adjective, w=word), key, tail


def example(rng, held_out):
    """(prompt, completion, combination); `held_out` chooses the values that only eval sees."""
    table = rng.choice(sorted(_TABLES))
    nouns, _, columns, _, _ = _TABLES[table]
    kind, question, selected, tail = _ask(rng, table)
    limit = 1 if kind in ("top", "group") else 2
    usable = [c for c, (_, forms, _) in columns.items() if forms and c not in tail and c not in selected]
    chosen = rng.sample(usable, min(len(usable), rng.choice((0, 1, 1, 1, 2, 2)), limit))
    said, where = rng.choice(nouns), []
    for column in chosen:
        make, forms, _ = columns[column]
        op, phrases = rng.choice(forms)
        value = make(rng, held_out)
        said += (" and " if where else " ") + rng.choice(phrases).format(v=value)
        where.append(f"{column} {op} " + (f"'{value}'" if isinstance(value, str) else str(value)))
    sql = f" SELECT {selected} FROM {table}" + (" WHERE " + " AND ".join(where) if where else "") + tail + ";"
    combination = (table, selected, tail.split("LIMIT")[0], tuple(sorted(chosen)))
    return PROMPT.format(question=question.format(n=said)), sql, combination
