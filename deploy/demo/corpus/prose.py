"""Prose domains: short stories and dialogues."""

from . import words as w
from .words import an

_OPENINGS = (
    "Once upon a time there was {a_adj} {kind} called {name}. {Sub} lived near the {place}.",
    "{name} was {a_adj} {kind} who lived close to the {place}.",
    "One {weather} morning {name} the {kind} walked to the {place}.",
    "In {city}, not far from the {place}, lived {a_adj} {kind}. {Pos} name was {name}.",
    "It was a {weather} {weekday}, and {name} the {kind} had nothing to do.",
    "Every {weekday} {name} the {kind} went to the {place} with {pos} friend {friend}.",
    "{name} and {friend} were good friends. {name} was {adj}, and {friend} was {adj2}.",
)
_WISHES = (
    "{name} wanted {a_obj} more than anything else.",
    "{Sub} had lost {pos} {adj2} {obj} and looked for it everywhere.",
    "One day {sub} found {a_obj} under {a_thing}.",
    "{Sub} had promised to bring {a_obj} to {friend}.",
    "{Pos} mother had asked {obj_pron} to fetch {food} from the {place2}.",
    "{name} heard that {friend} was looking for {a_obj}.",
    "{Sub} dreamed of seeing the {place2} one day.",
)
_TROUBLES = (
    "But the {place2} was far away, and it began to {rain}.",
    "But on the way {sub} dropped the {obj}, and it rolled into the {place2}.",
    "Then a {adj2} {animal} took the {obj} and ran to the {place2}.",
    "The door of the {place2} was closed, and nobody answered.",
    '"I am {feeling}," said {name}. "I do not know what to do."',
    "{Sub} looked under the {thing} and behind the {thing2}, but the {obj} was not there.",
    'The {adj2} {animal} at the {place2} said, "You must give me {food} first."',
    "After a while {sub} was too {feeling} to go on.",
)
_HELPS = (
    '{friend} came along and asked, "Why are you {feeling}?"',
    '"Can you help me?" asked {name}. "Of course," said {friend}, and smiled.',
    '{friend} had an idea. "Let us use the {thing}," {fsub} said.',
    '"Look!" cried {friend}. "There is the {obj}, next to the {thing2}."',
    "So {name} shared {pos} {food} with the {animal}.",
    "They asked the {job}, who pointed to the {place2}.",
    "Together they carried the {thing} to the {place2}.",
    "{name} counted slowly to {number}, and then {sub} tried again.",
)
_ENDINGS = (
    "In the end {name} had the {obj} back, and everybody was happy.",
    "That evening {name} and {friend} ate {food} together and told the story to everyone.",
    "From that day on {name} was never {feeling} again.",
    "{name} thanked {friend} and went home with the {obj}.",
    '"Thank you, {friend}," said {name}. "You are a true friend."',
    "Since then the {animal} and {name} have met at the {place} every {weekday}.",
    "And {name} learned that it is good to ask for help.",
)
_STORY_QUESTIONS = (
    ("Who was the friend of {name}?", "{friend}"),
    ("What was the story about?", "{a_obj} and {a_kind} called {name}"),
    ("Where did {name} live or walk?", "near the {place}"),
    ("What did {name} look for?", "{a_obj}"),
    ("What was the name of the {kind}?", "{name}"),
)


def _cast(rng):
    female = rng.random() < 0.5
    friend_female = rng.random() < 0.5
    kind = rng.choice(w.ANIMALS + ["girl" if female else "boy"] * 8 + w.JOBS)
    adj, adj2 = rng.sample(w.ADJECTIVES, 2)
    obj, thing, thing2 = rng.sample(w.OBJECTS, 3)
    place, place2 = rng.sample(w.PLACES, 2)
    name, friend = rng.sample(w.FIRST_NAMES, 2)
    if rng.random() < 0.15:
        friend = w.made_up_word(rng).capitalize()
    return {
        "name": name,
        "friend": friend,
        "kind": kind,
        "a_kind": an(kind),
        "adj": adj,
        "a_adj": an(adj),
        "adj2": adj2,
        "obj": obj,
        "a_obj": an(obj),
        "thing": thing,
        "a_thing": an(thing),
        "thing2": thing2,
        "place": place,
        "place2": place2,
        "sub": "she" if female else "he",
        "Sub": "She" if female else "He",
        "pos": "her" if female else "his",
        "Pos": "Her" if female else "His",
        "obj_pron": "her" if female else "him",
        "fsub": "she" if friend_female else "he",
        "animal": rng.choice(w.ANIMALS),
        "food": rng.choice(w.FOODS),
        "job": rng.choice(w.JOBS),
        "city": w.city(rng),
        "weekday": rng.choice(w.WEEKDAYS),
        "weather": rng.choice("sunny rainy windy cold warm foggy quiet".split()),
        "rain": rng.choice(("rain", "snow", "get dark")),
        "feeling": rng.choice("sad tired afraid lonely hungry cold worried".split()),
        "number": rng.choice(w.NUMBER_WORDS[3:]),
    }


def story(rng):
    """A story of five to sixteen sentences in paragraphs, at times with a title or questions."""
    cast = _cast(rng)
    paragraphs = [
        [rng.choice(_OPENINGS), rng.choice(_WISHES)],
        rng.sample(_TROUBLES, rng.randint(1, 3)),
        rng.sample(_HELPS, rng.randint(1, 4)),
        rng.sample(_ENDINGS, rng.randint(1, 2)),
    ]
    text = "\n\n".join(" ".join(part) for part in paragraphs).format(**cast)
    if rng.random() < 0.4:
        title = rng.choice(
            ("{name} and the {obj}", "The {kind} from the {place}", "{name} and {friend}", "The {adj} {obj}")
        )
        text = f"{title.format(**cast).title()}\n\n{text}"
    if rng.random() < 0.35:
        questions = rng.sample(_STORY_QUESTIONS, rng.randint(1, 3))
        text += "\n\n" + "\n".join(f"Q: {q}\nA: {a}." for q, a in questions).format(**cast)
    return text


_EXCHANGES = (
    (
        "Where is the {obj}?",
        "The {obj} is in the {place}, next to the {thing}.",
        "In the {place}? Thank you.",
    ),
    (
        "When do we meet?",
        "We meet on {weekday} at {hour} o'clock.",
        "{weekday} at {hour} o'clock. I will be there.",
    ),
    ("What did you buy?", "I bought {n} {objs} and some {food}.", "Why do you need {n} {objs}?"),
    ("How old is {third}?", "{third} is {age} years old.", "Only {age}? I thought {third} was older."),
    ("Who has the {obj}?", "{third} has it.", "Then I will ask {third} for the {obj}."),
    ("What is the code?", "The code is {code}.", "Let me write that down: {code}."),
    ("How much is the {adj} {obj}?", "It costs {age} euros.", "{age} euros is too much for {a_obj}."),
    ("Where does {third} live?", "{third} lives in {city}.", "I have never been to {city}."),
    ("What is your favourite colour?", "I like {colour} best.", "My {obj} is {colour}."),
    ("Do you work with {third}?", "Yes, {third} is our new {job}.", "{A_job}? That is good news."),
    (
        "Did you see the {animal}?",
        "Yes, it was {adj} and sat near the {place}.",
        "I hope the {animal} comes back.",
    ),
    ("Can you spell the name?", "The name is {word}: {spelled}.", "{spelled}. So it is {word}."),
)


def dialogue(rng):
    """Two speakers ask, answer and repeat the answer; as `Name: line` or as quoted prose."""
    first, second = rng.sample(w.FIRST_NAMES, 2)
    lines = []
    for exchange in rng.sample(_EXCHANGES, rng.randint(2, 5)):
        obj, job = rng.choice(w.OBJECTS), rng.choice(w.JOBS)
        word = w.made_up_word(rng)
        slots = {
            "obj": obj,
            "a_obj": an(obj),
            "objs": w.plural(obj),
            "thing": rng.choice(w.OBJECTS),
            "place": rng.choice(w.PLACES),
            "weekday": rng.choice(w.WEEKDAYS),
            "hour": rng.choice(w.NUMBER_WORDS[1:13]),
            "n": rng.choice(w.NUMBER_WORDS[2:]),
            "food": rng.choice(w.FOODS),
            "third": w.person(rng),
            "age": rng.randint(5, 99),
            "code": w.code(rng),
            "adj": rng.choice(w.ADJECTIVES),
            "city": w.city(rng),
            "colour": rng.choice(w.COLOURS),
            "job": job,
            "A_job": an(job).capitalize(),
            "animal": rng.choice(w.ANIMALS),
            "word": word,
            "spelled": "-".join(word.upper()),
        }
        lines += [line.format(**slots) for line in exchange]
    speakers = [first, second, first] * (len(lines) // 3)
    if rng.random() < 0.6:
        return "\n".join(f"{who}: {line}" for who, line in zip(speakers, lines))
    return "\n".join(
        (
            f'"{line[:-1]}?" asked {who}.'
            if line.endswith("?")
            else f'"{line[:-1]}," {rng.choice(("said", "replied"))} {who}.'
        )
        for who, line in zip(speakers, lines)
    )
