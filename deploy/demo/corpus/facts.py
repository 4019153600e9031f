"""Facts about invented people, places and things, with questions answered from the text."""

from . import words as w
from .words import an

# attribute: (value generator, statements, questions)
_PEOPLE = {
    "home": (
        w.city,
        ("{s} lives in {v}.", "The home of {s} is {v}.", "{s} has a house in {v}."),
        ("Where does {s} live?", "In which city does {s} live?"),
    ),
    "job": (
        lambda r: r.choice(w.JOBS),
        ("{s} works as {av}.", "{s} is {av}.", "The job of {s} is {v}."),
        ("What is the job of {s}?", "What does {s} work as?"),
    ),
    "age": (
        lambda r: r.randint(18, 90),
        ("{s} is {v} years old.", "The age of {s} is {v}."),
        ("How old is {s}?", "What is the age of {s}?"),
    ),
    "pet": (
        lambda r: r.choice(w.ANIMALS),
        ("{s} has {av}.", "{s} keeps {av} as a pet."),
        ("Which pet does {s} have?", "What animal does {s} keep?"),
    ),
    "colour": (
        lambda r: r.choice(w.COLOURS),
        ("{s} likes {v} best.", "The favourite colour of {s} is {v}."),
        ("What is the favourite colour of {s}?", "Which colour does {s} like best?"),
    ),
    "sport": (
        lambda r: r.choice(w.SPORTS),
        ("In the evening {s} enjoys {v}.", "{s} is good at {v}."),
        ("Which sport does {s} enjoy?", "What is {s} good at?"),
    ),
    "instrument": (
        lambda r: r.choice(w.INSTRUMENTS),
        ("{s} plays the {v}.", "{s} is learning the {v}."),
        ("Which instrument does {s} play?",),
    ),
    "department": (
        lambda r: r.choice(w.DEPARTMENTS),
        ("{s} is in the {v} department.", "{s} joined {v} last year."),
        ("In which department is {s}?", "Where does {s} work?"),
    ),
    "birth": (
        lambda r: f"{r.randint(1, 28)} {r.choice(w.MONTHS)} {r.randint(1930, 2005)}",
        ("{s} was born on {v}.",),
        ("When was {s} born?", "What is the birthday of {s}?"),
    ),
    "badge": (
        w.code,
        ("The badge of {s} has the number {v}.", "{s} uses badge {v}."),
        ("What is the badge number of {s}?",),
    ),
}
_THINGS = {
    "price": (
        lambda r: r.randint(2, 999),
        ("The {s} costs {v} euros.", "The price of the {s} is {v} euros."),
        ("How much is the {s}?", "What does the {s} cost?"),
    ),
    "colour": (
        lambda r: r.choice(w.COLOURS),
        ("The {s} is {v}.", "The colour of the {s} is {v}."),
        ("What colour is the {s}?",),
    ),
    "place": (
        lambda r: r.choice(w.PLACES),
        ("The {s} is in the {v}.", "You find the {s} in the {v}."),
        ("Where is the {s}?", "Where do you find the {s}?"),
    ),
    "owner": (
        w.person,
        ("The {s} belongs to {v}.", "{v} owns the {s}."),
        ("Who owns the {s}?", "Whose is the {s}?"),
    ),
    "code": (
        w.code,
        ("The {s} has the code {v}.", "The number on the {s} is {v}."),
        ("What is the code of the {s}?",),
    ),
    "stock": (
        lambda r: r.randint(0, 500),
        ("There are {v} pieces of the {s} in stock.",),
        ("How many pieces of the {s} are in stock?",),
    ),
    "maker": (
        lambda r: w.made_up_word(r).capitalize(),
        ("The {s} is made by {v}.", "{v} makes the {s}."),
        ("Who makes the {s}?",),
    ),
}
_CITIES = {
    "country": (
        lambda r: r.choice(w.COUNTRIES),
        ("{s} is a city in {v}.", "The city of {s} lies in {v}."),
        ("In which country is {s}?",),
    ),
    "people": (
        lambda r: r.randint(2, 9000) * 100,
        ("{s} has {v} inhabitants.", "About {v} people live in {s}."),
        ("How many people live in {s}?",),
    ),
    "mayor": (
        w.person,
        ("The mayor of {s} is {v}.", "{v} is the mayor of {s}."),
        ("Who is the mayor of {s}?",),
    ),
    "river": (
        lambda r: w.made_up_word(r).capitalize(),
        ("The river {v} flows through {s}.",),
        ("Which river flows through {s}?",),
    ),
    "known": (
        lambda r: w.plural(r.choice(w.OBJECTS)),
        ("{s} is known for its {v}.", "Many {v} are made in {s}."),
        ("What is {s} known for?",),
    ),
    "founded": (lambda r: r.randint(900, 1950), ("{s} was founded in {v}.",), ("When was {s} founded?",)),
}


def _subjects(rng, count):
    kind = rng.randrange(3)
    makers = ((w.person, _PEOPLE), (w.product, _THINGS), (w.city, _CITIES))[kind]
    subjects = []
    while len(subjects) < count:
        subject = makers[0](rng)
        if subject not in subjects:
            subjects.append(subject)
    return subjects, makers[1]


def _say(rng, forms, subject, value):
    value = str(value)
    return rng.choice(forms).format(s=subject, v=value, av=an(value))


def facts(rng, low=2, high=6):
    """`low` to `high` subjects with two to four attributes each, then questions in one of four layouts."""
    subjects, pool = _subjects(rng, rng.randint(low, high))
    attributes = rng.sample(sorted(pool), rng.randint(2, min(4, len(pool))))
    known = {(s, a): pool[a][0](rng) for s in subjects for a in attributes}
    pairs = list(known)
    if rng.random() < 0.5:
        rng.shuffle(pairs)
    text = " ".join(_say(rng, pool[a][1], s, known[s, a]) for s, a in pairs)
    layout = rng.randrange(4)
    asked = rng.sample(pairs, min(len(pairs), rng.randint(2, 6)))
    if layout == 3:
        return text + "\n\nIn short:\n" + "\n".join(f"- {s}, {a}: {known[s, a]}" for s, a in asked)
    answers = []
    for s, a in asked:
        question = rng.choice(pool[a][2]).format(s=s)
        if layout == 0:
            answers.append(f"Q: {question}\nA: {known[s, a]}")
        elif layout == 1:
            answers.append(f"{question} {_say(rng, pool[a][1], s, known[s, a])}")
        else:
            answers.append(f"{question} -> {known[s, a]}")
    return text + "\n\n" + "\n".join(answers)


def many_facts(rng):
    """A long text, so that the answer lies hundreds of tokens back."""
    return facts(rng, 8, 20)


def who(rng):
    """The reverse direction: which subject has the value, and how many share it."""
    subjects, pool = _subjects(rng, rng.randint(3, 6))
    attribute = rng.choice(sorted(pool))
    values = [pool[attribute][0](rng) for _ in range(3)]
    known = {s: rng.choice(values) for s in subjects}
    lines = [_say(rng, pool[attribute][1], s, v) for s, v in known.items()]
    out = []
    for value in dict.fromkeys(known.values()):
        having = [s for s, v in known.items() if v == value]
        out.append(f"{attribute} {value}: {w.listing(having)} ({len(having)})")
    return " ".join(lines) + f"\n\nBy {attribute}:\n" + "\n".join(out)
