"""Values for the demo tasks, each list split into one part for training and one that only eval sees."""

import random

from corpus import words as w


def _split(values, eval_share):
    """(for training, for eval): disjoint parts of the sorted values."""
    values = sorted(values)
    random.Random(f"split/{len(values)}/{values[0]}").shuffle(values)
    cut = int(len(values) * (1 - eval_share))
    return values[:cut], values[cut:]


CITIES = _split(w.CITIES, 0.3)
FIRST = _split(w.FIRST_NAMES, 0.3)
LAST = _split(w.LAST_NAMES, 0.3)
BRANDS = _split(w.BRAND_STEMS, 0.3)


def city(rng, held_out):
    return rng.choice(CITIES[held_out])


def person(rng, held_out):
    return f"{rng.choice(FIRST[held_out])} {rng.choice(LAST[held_out])}"


def brand(rng, held_out):
    return rng.choice(BRANDS[held_out])
