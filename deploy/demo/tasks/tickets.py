"""Support tickets to routed JSON: team and priority are classified, name and reference copied."""

import json

from corpus import words as w

from . import values

PROMPT = "Ticket: {text}\nRoute:"

# team: sentences; {ref} is an order, invoice or contract number, {product} a product.
_PROBLEMS = {
    "billing": (
        "I was charged twice for invoice {ref}.",
        "The amount on invoice {ref} is wrong.",
        "I never got a receipt for {ref}.",
        "Invoice {ref} shows the old company name.",
        "Why is the fee on {ref} higher than last month?",
        "My card was billed for {ref} too early.",
        "I paid for the {product} but still get reminders.",
    ),
    "shipping": (
        "Order {ref} has not arrived.",
        "The parcel with order {ref} went to the wrong street.",
        "Tracking for {ref} has not moved for days.",
        "The courier left {ref} in the rain.",
        "When will order {ref} be delivered?",
        "Half of the boxes of order {ref} are missing.",
        "I am still waiting for my {product}.",
    ),
    "returns": (
        "I want to send back the {product} from order {ref}.",
        "The {product} in {ref} has the wrong colour.",
        "Please take back order {ref}.",
        "I would like to swap the {product} from {ref} for a larger one.",
        "How do I get a refund for order {ref}?",
        "I changed my mind about {ref}.",
        "The {product} is too small and I want to return it.",
    ),
    "technical": (
        "The {product} from order {ref} does not turn on.",
        "The {product} loses the connection all the time.",
        "After the update the {product} shows an error.",
        "My {product} makes a strange noise.",
        "The screen of the {product} with number {ref} stays black.",
        "The {product} gets too hot.",
        "I cannot pair the {product} with my phone.",
    ),
    "account": (
        "I cannot log in to account {ref}.",
        "The password link for account {ref} has expired.",
        "Please change the email address of account {ref}.",
        "My account {ref} is locked.",
        "I want to delete my profile.",
        "Somebody else used account {ref}.",
        "The code for signing in never comes.",
    ),
    "sales": (
        "I need a quote for twenty pieces of the {product}.",
        "Is there a discount for schools on the {product}?",
        "Please extend contract {ref} by a year.",
        "Do you sell the {product} abroad?",
        "I would like to add five seats to contract {ref}.",
        "Which warranty comes with the {product}?",
        "Can somebody show us the {product} next week?",
    ),
}
_PRIORITIES = {
    "high": (
        "This is urgent.",
        "Please help at once.",
        "We cannot work any more.",
        "I need an answer within the hour.",
        "Everything has stopped here.",
        "It is an emergency.",
    ),
    "normal": (
        "Please answer this week.",
        "I would be glad about a reply.",
        "Let me know what to do.",
        "Please look into it.",
        "Thank you for your help.",
        "I hope you can fix this.",
    ),
    "low": (
        "There is no hurry.",
        "It can wait.",
        "Whenever you have time.",
        "It is not important.",
        "Just for your information.",
        "Take your time.",
    ),
}
_INTRODUCTIONS = ("My name is {name}.", "{name} here.", "This is {name}.", "I am {name}.")
_SIGNATURES = ("Regards, {name}", "Best wishes, {name}", "{name}", "Yours, {name}")


def _reference(rng):
    letter = rng.choice("ABCDEFGHKLMNPRSTUVWXZ")
    return rng.choice(
        (
            f"{letter}-{rng.randint(1000, 9999)}",
            str(rng.randint(10000, 99999)),
            f"{letter}{rng.choice('ABCDEFGH')}{rng.randint(100, 999)}",
        )
    )


def example(rng, held_out):
    """(prompt, completion, combination of problem and urgency)."""
    team, priority = rng.choice(sorted(_PROBLEMS)), rng.choice(sorted(_PRIORITIES))
    problem, urgency = rng.choice(_PROBLEMS[team]), rng.choice(_PRIORITIES[priority])
    name, reference = values.person(rng, held_out), _reference(rng)
    product = f"{values.brand(rng, held_out)} {rng.choice(w.PRODUCT_KINDS)}"
    body = [problem.format(ref=reference, product=product), urgency]
    if rng.random() < 0.3:
        body.reverse()
    if rng.random() < 0.5:
        body.insert(0, rng.choice(_INTRODUCTIONS).format(name=name))
    else:
        body.append(rng.choice(_SIGNATURES).format(name=name))
    route = {
        "team": team,
        "priority": priority,
        "name": name,
        "ref": reference if "{ref}" in problem else None,
    }
    return PROMPT.format(text=" ".join(body)), " " + json.dumps(route), (problem, urgency)
