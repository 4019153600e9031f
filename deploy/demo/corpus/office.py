"""Messages of customers with replies, sorted inboxes, and lists of orders and people with filters."""

from . import words as w

# subject: ways to say it after "I write because" / as a sentence of its own ({code}, {product}, {n}, ...)
_SUBJECTS = {
    "payment": (
        "the bill {code} is too high",
        "you took {n} euros from my card twice",
        "the amount on bill {code} is not right",
        "I have paid {n} euros but you say that I owe you money",
        "the bill {code} has a wrong name on it",
        "I was charged a fee that I do not know",
        "I need a receipt over {n} euros",
        "a reminder came although I paid",
        "the price on the invoice is not the price on the page",
        "I do not understand the invoice {code}",
    ),
    "delivery": (
        "my parcel {code} is late",
        "the box has not come yet",
        "the driver brought the {product} to the wrong house",
        "the package {code} has been on its way since {month}",
        "a part of my order is missing",
        "I want to know when the {product} will arrive",
        "nobody was at home when the courier came",
        "the parcel got wet on the way",
        "I wait for {code} and see no tracking",
        "you sent it to {city} by mistake",
    ),
    "exchange": (
        "I want to give the {product} back",
        "the {product} is too large",
        "I ordered the wrong {product}",
        "I would like my {n} euros back",
        "the {product} has another colour than on the page",
        "I do not need the {product} any more",
        "I want to swap the {product} for a smaller one",
        "you sent me a {product} that I did not want",
        "I return {code} and ask for a refund",
    ),
    "defect": (
        "the {product} is broken",
        "the {product} does not start",
        "the screen of the {product} is black",
        "my {product} makes a noise and gets hot",
        "the {product} stops after an hour",
        "the {product} shows error {n}",
        "the {product} does not work since the update",
        "I cannot connect the {product}",
        "the battery of the {product} is always empty",
        "the app of the {product} crashes",
    ),
    "access": (
        "I cannot sign in",
        "I forgot my password",
        "my login {code} is blocked",
        "I want to change my email address",
        "the link to set a new password does not work",
        "someone uses my profile",
        "please remove my profile",
        "I get no code on my phone when I log in",
        "my account shows the wrong name",
    ),
    "offer": (
        "we would like to buy {n} pieces of the {product}",
        "I ask for an offer for the {product}",
        "is there a lower price for students",
        "we want to renew contract {code}",
        "do you sell the {product} in {city}",
        "we need more seats for our team",
        "I have a question about the warranty of the {product}",
        "we would like to see the {product} first",
        "what does the {product} cost for a school",
    ),
}
_PRESSURE = {
    "at once": (
        "Please answer at once.",
        "It is urgent.",
        "Nothing works here any more.",
        "We have an emergency.",
        "I need help within the hour.",
        "Our work has stopped.",
        "This cannot wait until tomorrow.",
    ),
    "this week": (
        "Please reply this week.",
        "I hope to hear from you.",
        "Please tell me what I can do.",
        "Please look at this.",
        "Thank you for your help.",
        "Can you fix this?",
        "A reply would be nice.",
    ),
    "some time": (
        "Take all the time you need.",
        "There is no hurry at all.",
        "It is not that important.",
        "It can wait.",
        "Answer whenever you like.",
        "This is just for your information.",
    ),
}


def _message(rng):
    """(subject, pressure, sentences, particulars)."""
    slots = {
        "code": w.code(rng),
        "product": w.product(rng),
        "month": rng.choice(w.MONTHS),
        "n": rng.randint(5, 900),
        "city": w.city(rng),
    }
    subject, pressure = rng.choice(sorted(_SUBJECTS)), rng.choice(sorted(_PRESSURE))
    form = rng.choice(_SUBJECTS[subject])
    concern = form.format(**slots)
    if concern.startswith(("is there", "do you", "what does")):
        sentence = concern[0].upper() + concern[1:] + "?"
    elif rng.random() < 0.4:
        sentence = (
            f"{rng.choice(('I write because', 'I am sorry to say that', 'I must tell you that'))} {concern}."
        )
    else:
        sentence = concern[0].upper() + concern[1:] + "."
    parts = [sentence, rng.choice(_PRESSURE[pressure])]
    if rng.random() < 0.25:
        parts.reverse()
    slots["mentions"] = slots["code"] if "{code}" in form else "none"
    return subject, pressure, parts, slots


def letter(rng):
    """A customer's letter, at times with a reply and a note that reuse its particulars."""
    subject, pressure, parts, slots = _message(rng)
    customer, agent = w.person(rng), rng.choice(w.FIRST_NAMES)
    text = f"Dear {rng.choice(('team', agent))},\n\n{' '.join(parts)}"
    text += f"\n\n{rng.choice(('Kind regards', 'Best wishes', 'Yours'))}\n{customer}"
    form = rng.randrange(4)
    if form <= 1:
        text += (
            f"\n\n---\n\nDear {customer},\n\nthank you for your question about {subject}. "
            f"{rng.choice(('We will look at it', 'A colleague takes care of it'))} {pressure}.\n\n"
            f"Best wishes\n{agent}"
        )
    if form >= 1:
        text += (
            f"\n\n{rng.choice(('Note', 'Summary'))}: {customer} writes about {subject}, answer {pressure}, "
            f"number {slots['mentions']}."
        )
    return text


def inbox(rng):
    """Short messages, then a list that sorts them by subject or by how soon they need an answer."""
    messages = []
    for _ in range(rng.randint(2, 5)):
        subject, pressure, parts, slots = _message(rng)
        name = w.person(rng)
        said = " ".join(parts)
        body = rng.choice((f"{name}: {said}", f"{said} {name}", f"I am {name}. {said}", f"{said} - {name}"))
        messages.append((name, subject, pressure, slots["mentions"], body))
    text = "\n".join(f"{i}. {m[4]}" for i, m in enumerate(messages, 1))
    form = rng.randrange(4)
    if form == 0:
        lines = [
            f"{s}: {w.listing([m[0] for m in messages if m[1] == s])}"
            for s in dict.fromkeys(m[1] for m in messages)
        ]
    elif form == 1:
        lines = [f"{i}. about {m[1]}, answer {m[2]}" for i, m in enumerate(messages, 1)]
    elif form == 2:
        lines = [f"{m[0]} | {m[1]} | {m[3]}" for m in messages]
    else:
        lines = [
            f"{p}: {w.listing([m[0] for m in messages if m[2] == p])}"
            for p in dict.fromkeys(m[2] for m in messages)
        ]
    return text + "\n\n" + "\n".join(lines)


def _orders(rng):
    return (
        "orders",
        [
            {
                "key": w.code(rng),
                "city": w.city(rng),
                "person": w.person(rng),
                "n": rng.randint(5, 900),
                "word": rng.choice(w.STATUSES),
            }
            for _ in range(rng.randint(3, 7))
        ],
        "Order {key} was placed by {person} and goes to {city}; it is worth {n} euros and {word}.",
        (("sent to {v}", "city"), ("that are {v}", "word"), ("placed by {v}", "person")),
    )


def _staff(rng):
    return (
        rng.choice(("employees", "colleagues")),
        [
            {
                "key": w.person(rng),
                "city": w.city(rng),
                "n": rng.randint(10, 99) * 100,
                "year": rng.randint(1990, 2024),
                "word": rng.choice(w.DEPARTMENTS),
            }
            for _ in range(rng.randint(3, 7))
        ],
        "{key} works in the {word} department, is based in {city}, was hired in {year} and earns {n} euros.",
        (("in the {v} office", "city"), ("in the {v} department", "word")),
    )


def _products(rng):
    return (
        rng.choice(("products", "articles")),
        [
            {
                "key": w.product(rng),
                "n": rng.randint(5, 900),
                "stock": rng.randint(0, 99),
                "word": rng.choice(w.KINDS),
            }
            for _ in range(rng.randint(3, 7))
        ],
        "The {key} costs {n} euros, is in the {word} category, and {stock} pieces are in stock.",
        (("of the category {v}", "word"),),
    )


def _customers(rng):
    return (
        rng.choice(("customers", "clients")),
        [
            {
                "key": w.person(rng),
                "city": w.city(rng),
                "n": rng.randint(1, 40),
                "year": rng.randint(1990, 2024),
                "word": rng.choice(w.LEVELS),
            }
            for _ in range(rng.randint(3, 7))
        ],
        "{key} from {city} joined in {year}, has {word} status and has made {n} purchases.",
        (("who live in {v}", "city"), ("with {v} status", "word")),
    )


def filters(rng):
    """Orders, people or products in sentences, then questions that filter, count or compare them."""
    noun, rows, sentence, tests = rng.choice((_orders, _staff, _products, _customers))(rng)
    lines = [" ".join(sentence.format(**row) for row in rows), ""]
    for _ in range(rng.randint(2, 5)):
        form = rng.randrange(4)
        if form <= 1:
            phrase, field = rng.choice(tests)
            value = rng.choice(rows)[field]
            found = [row["key"] for row in rows if row[field] == value]
            what = phrase.format(v=value)
        else:
            bound = rng.choice(rows)["n"] + rng.choice((-1, 1))
            more = rng.random() < 0.5
            found = [row["key"] for row in rows if (row["n"] > bound) == more and row["n"] != bound]
            what = f"with {'more' if more else 'less'} than {bound}"
        if rng.random() < 0.5:
            lines.append(f"Which {noun} {what}? {w.listing(found) if found else 'none'}")
        else:
            lines.append(f"Number of {noun} {what}: {len(found)}")
    return "\n".join(lines)
