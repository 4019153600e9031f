"""Word lists, and generators of values (names, codes, numbers) that the domains share."""

FIRST_NAMES = (
    "Ada Adam Agnes Ahmed Aiko Alan Alice Amara Amir Amy Ana Anders Andrea Anna Arjun Astrid Ben "
    "Beth Bianca Boris Bruno Carla Carlos Cecilia Chen Clara Colin Cora Daniel Daria David Diego "
    "Dina Dora Edith Elena Eli Emil Emma Erik Eva Farid Felix Fiona Frank Freya George Gina Grace "
    "Greta Hana Hannah Harry Hassan Helen Henry Hugo Ida Ines Ingrid Iris Isaac Ivan Jack Jane "
    "Jasmin Jin Joan John Jonas Jorge Julia Kai Karen Karim Kate Kenji Kira Lars Laura Leah Lena "
    "Leo Liam Lila Linda Lucia Lucy Luis Luka Maja Malik Marco Maria Marie Mark Martha Martin Mary "
    "Maya Mei Mia Milan Mina Mira Mona Nadia Nasir Nina Noah Nora Olga Oliver Omar Oscar Otto Pablo "
    "Paul Paula Pedro Petra Priya Rafael Rania Ravi Rita Robert Rosa Ruth Sam Sana Sara Selma Sofia "
    "Stefan Sven Tara Theo Thomas Tim Tom Uma Vera Victor Vikram Walter Wanda Yara Yusuf Zoe"
).split()

LAST_NAMES = (
    "Adler Ahmadi Almeida Andersen Baker Banerjee Barros Bauer Becker Bennett Berg Bishop Blake "
    "Brandt Brennan Brooks Bruun Carter Castro Chandra Clarke Cohen Cole Conti Costa Cruz Dahl Davis "
    "Delgado Demir Diaz Dietz Dixon Dubois Duran Ekman Ellis Engel Farah Fischer Fleming Fontana Ford "
    "Foster Fox Frost Garcia Gibson Gomez Graf Grant Green Gupta Haas Hahn Hansen Harper Hayes Heller "
    "Hoffman Holm Hughes Ibarra Ito Ivanov Jansen Jensen Johansson Jones Jordan Kaya Keller Kelly "
    "Khan Kim Klein Koch Kowalski Kramer Kumar Lambert Lang Larsen Lee Lehmann Lindqvist Lopez Lund "
    "Maier Marin Marsh Martins Mason Mehta Mendes Meyer Miller Moreau Moreno Morris Murphy Nakamura "
    "Nielsen Novak Nowak Nguyen Okafor Olsen Ortiz Osman Park Patel Pereira Peters Petrov Pires Quinn "
    "Ramos Reyes Richter Rivera Roberts Romano Rossi Roth Russo Sato Schmidt Schulz Shah Sharma Silva "
    "Singh Stone Suzuki Tanaka Thorne Torres Turner Vargas Vogel Wagner Walker Walsh Weber West White "
    "Winter Wolf Wong Wood Wright Yamada Yilmaz Young Zhang Ziegler"
).split()

CITIES = (
    "Aarhus Accra Amsterdam Ankara Athens Austin Bari Basel Belfast Bergen Berlin Bilbao Bogota Bonn "
    "Boston Bremen Bristol Brno Cairo Calgary Cardiff Chicago Cologne Cork Dakar Dallas Delhi Denver "
    "Dresden Dublin Durban Essen Geneva Genoa Ghent Glasgow Graz Hamburg Hanoi Havana Helsinki "
    "Istanbul Jakarta Kigali Krakow Kyoto Lagos Leeds Leipzig Lille Lima Lisbon Liverpool London Lyon "
    "Madrid Malaga Malmo Manila Milan Montreal Munich Nairobi Nantes Naples Nice Odense Oslo Ottawa "
    "Oxford Padua Paris Perth Pisa Porto Prague Quito Riga Rome Rotterdam Salzburg Santiago Seattle "
    "Seoul Seville Sofia Split Stockholm Sydney Tallinn Tampere Tokyo Toronto Toulouse Trieste Turin "
    "Utrecht Valencia Verona Vienna Vilnius Warsaw York Zagreb Zurich"
).split()

COUNTRIES = (
    "Austria Belgium Brazil Canada Chile Croatia Denmark Egypt Estonia Finland France Germany Ghana "
    "Greece India Ireland Italy Japan Kenya Latvia Mexico Morocco Norway Peru Poland Portugal Spain "
    "Sweden Turkey Vietnam"
).split()

ANIMALS = (
    "cat dog fox hen horse mouse owl rabbit goat sheep duck frog bear wolf crow turtle hedgehog "
    "squirrel pony parrot beaver otter badger deer lamb goose"
).split()

OBJECTS = (
    "apple basket bell blanket boat book bottle box brush bucket button candle chair clock coat coin "
    "cup drum feather flag flute garden hat jar kettle key kite knife ladder lamp letter map mirror "
    "necklace needle notebook painting pebble pencil pillow plate pot ribbon ring rope scarf shell "
    "shoe spoon stone sword table teapot ticket torch umbrella vase violin watch whistle wheel"
).split()

PLACES = (
    "attic bakery barn beach bridge cabin castle cave cellar church farm field forest garden "
    "harbour hill house island kitchen lake library lighthouse market meadow mill mountain museum "
    "orchard park playground pond river road school square station street theatre tower valley "
    "village well workshop"
).split()

ADJECTIVES = (
    "big blue bright brown clean clever cold dark dusty empty fast fresh funny gentle golden green "
    "grey happy heavy hungry kind large light little lonely long loud new old orange pale patient "
    "plain pretty proud quick quiet red round rusty sad sharp shiny short silver simple slow small "
    "soft strange strong sweet tall thin tiny tired warm white wide wild wise wooden yellow young"
).split()

COLOURS = "red blue green yellow white black brown grey orange purple pink silver golden".split()
FOODS = (
    "bread cheese soup cake rice honey apples pears cherries fish pasta salad beans carrots nuts "
    "pancakes cookies potatoes tomatoes noodles olives plums berries"
).split()
JOBS = (
    "baker teacher doctor farmer nurse pilot painter carpenter lawyer writer cook driver singer "
    "gardener engineer librarian sailor tailor miner dentist plumber waiter chemist editor clerk"
).split()
SPORTS = "football tennis chess swimming running cycling hockey golf rowing skating judo".split()
INSTRUMENTS = "piano violin guitar flute drum cello trumpet harp banjo organ".split()
DEPARTMENTS = (
    "sales finance legal support design research logistics security marketing purchasing "
    "quality training planning"
).split()
STATUSES = "new open closed paid sent late done cancelled shipped waiting returned lost".split()
KINDS = (
    "kitchen garden office audio sports outdoor indoor toys winter summer school travel lighting home"
).split()
LEVELS = "bronze silver gold platinum basic standard premium first second third".split()
MONTHS = ("January February March April May June July August September October November December").split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()

PRODUCT_KINDS = (
    "router kettle lamp headphones camera printer keyboard monitor tablet speaker charger backpack "
    "blender toaster scooter drill heater fan scale thermostat projector mouse microphone vacuum "
    "phone watch bike chair desk tent"
).split()
BRAND_STEMS = (
    "Astra Bolt Cedar Delta Echo Falcon Gamma Halo Iris Juno Kite Luna Metro Nimbus Orbit Pixel "
    "Quartz Raven Solar Terra Ultra Vertex Willow Xeno Yukon Zephyr Amber Breeze Coral Dune Ember "
    "Frost Glide Harbor Ivory Jade Lumen Maple Nova Onyx Pulse Ridge Spark Tidal Vista"
).split()

_ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z".split()
_NUCLEI = "a e i o u ai ea ee ia io oa ou".split()
_CODAS = ["", "", "", "l", "m", "n", "nd", "r", "rk", "s", "sh", "st", "t", "x"]


def made_up_word(rng):
    """A pronounceable word of one to three syllables that is in no list."""
    syllables = rng.choice((1, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(syllables))


def person(rng):
    """A full name; one in six has a made-up surname, so that names must be copied, not recalled."""
    last = made_up_word(rng).capitalize() if rng.random() < 0.17 else rng.choice(LAST_NAMES)
    return f"{rng.choice(FIRST_NAMES)} {last}"


def city(rng):
    return made_up_word(rng).capitalize() if rng.random() < 0.2 else rng.choice(CITIES)


def product(rng):
    brand = made_up_word(rng).capitalize() if rng.random() < 0.25 else rng.choice(BRAND_STEMS)
    return f"{brand} {rng.choice(PRODUCT_KINDS)}"


def code(rng):
    """An identifier such as K-4821, 77310 or QX204."""
    letters = "ABCDEFGHKLMNPQRSTUVWXYZ"
    form = rng.randrange(4)
    if form == 0:
        return f"{rng.choice(letters)}-{rng.randint(100, 9999)}"
    if form == 1:
        return str(rng.randint(1000, 99999))
    if form == 2:
        return f"{rng.choice(letters)}{rng.choice(letters)}{rng.randint(10, 999)}"
    return f"{rng.choice(letters)}{rng.choice(letters)}-{rng.randint(1000, 99999)}"


def an(noun):
    """The noun with its indefinite article."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def listing(items):
    """`a`, `a and b`, `a, b and c`."""
    items = list(items)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def plural(noun):
    if noun.endswith(("s", "x", "sh", "ch")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return {
        "knife": "knives",
        "mouse": "mice",
        "goose": "geese",
        "sheep": "sheep",
        "deer": "deer",
        "wolf": "wolves",
        "feather": "feathers",
    }.get(noun, noun + "s")
