"""Everyday words, so that most tokens of the vocabulary are seen in many contexts."""

WORDS = (
    "able about above accept access account across act active add address advice after again age "
    "agree air alarm all allow almost alone along already also always amount angry animal answer any "
    "anybody anything appear apply area arm around arrive article ask assist attach autumn average "
    "avoid away baby back bad bag balance ball bank base basic bath beautiful become bed before begin "
    "behind believe below beside best better between big bill bird birthday black block blood board "
    "body bonus border borrow both bottom branch brand break breakfast bridge bring brother budget "
    "build building bus business busy button buy buyer by cable calendar call calm camp cancel car "
    "card care careful carry case cash cause central century certain chain chance change charge cheap "
    "check child choice choose circle claim class clean clear clerk client climb close cloud coffee "
    "collect college colour column come comfort comment common company compare complaint complete "
    "computer condition confirm connect contact contain content continue contract control cook cool "
    "copy corner correct cost could count country couple course cover create credit cross crowd cry "
    "cup current customer cut cycle daily damage dance danger data date daughter day deal dear decide "
    "deep default degree delay delete deliver delivery department depend describe desk detail device "
    "different digital dinner direct dirty discount discuss dish display distance divide document "
    "door double doubt down draft draw dream dress drink drive drop dry due during duty each early "
    "earn earth east easy eat edge edit effect effort either electric email emergency employee end "
    "energy engine enjoy enough enter entry equal error escape euro even evening event ever every "
    "everybody everything exact example except exchange excuse exercise exit expect expensive expire "
    "explain express extend extra eye face fact factory fail fair fall false family famous far fast "
    "father fault favour fear fee feel field fight figure file fill film final find fine finger "
    "finish fire first fit fix flag flat flight floor flow fly follow foot foreign forget form "
    "forward free fresh friend from front fuel full fun function future gain game gas gate general "
    "get gift give glad glass go goal good grade grand great ground group grow guard guess guest "
    "guide habit half hall hand handle happen hard hat hate have head health hear heart heat heavy "
    "height hello help here hide high hire hit hold hole holiday home honest hope hospital host hot "
    "hotel hour house how human hundred hurry ice idea image important improve include increase index "
    "industry info inform input inside install instead interest internal invite invoice iron item job "
    "join joke jump junior just keep kind know label language large last late later laugh law layer "
    "lead leader learn least leave left legal length less lesson let letter level library licence lie "
    "life lift light like limit line link list listen little live load loan local location lock log "
    "login long look lose loss lost lot love low lower lowest lunch machine mail main maintain make "
    "maker manage manager many mark market master match material matter maximum may maybe meal mean "
    "measure medium meet meeting member memory mention menu message metal method middle might mind "
    "minimum minute miss mistake mix mobile mode model modern moment money month more most mother "
    "motor move much music must name narrow nation nature near need network never new newer news next "
    "night nobody noise none normal north note nothing notice now number object offer office officer "
    "old older once online only open operate opinion option orange order origin other outside over "
    "own owner pack package page pain pair paper parcel parent park part partner party pass past path "
    "pattern pay payment people per perfect perhaps period person phone photo phrase pick picture "
    "piece pink pipe place plain plan plane plant plastic platform play please plenty plus pocket "
    "point police polite poor port position possible post power practice prefer prepare present press "
    "price primary print priority private prize problem process produce product profile profit "
    "program project promise proof proper protect provide public pull purchase purpose push put "
    "quality quantity quarter question queue quick quiet quite quote radio rain raise range rank rare "
    "rate reach react read ready real reason receipt receive recent record reduce ref refer reference "
    "refund refuse region register regular relax release remain remember reminder remove rent repair "
    "repeat reply report request rescue reset rest result return reward rice rich ride right ring "
    "rise risk role roof room root rough route row rule run safe salary sale sales salt same sample "
    "save say scale scan schedule school science score screen search season seat second secret "
    "section secure see seem select sell seller send senior sense series serious serve server service "
    "session set settle several shade shake shall shape share sheet shelf shift shine ship shop short "
    "should shout show shut sick side sign signal silent similar simple since sing single sister sit "
    "site size skill sky sleep slip slow smart smell smile smoke smooth social soft software solve "
    "some somebody something song soon sort sound source south space spare speak special "
    "speed spell spend spirit sport spring staff stage stamp stand standard star start state station "
    "status stay steel step still stock stop store storm story strange street strong student study "
    "style subject success such sudden sugar suggest summer supply support sure surface surprise "
    "survey sweet swim switch symbol system tag take talk target task taste tax teach team tell term "
    "test text than thank that theme then there thick thing think third though thought thousand "
    "thread through throw ticket tidy tie tier till time tired title today together tomorrow tone "
    "tool tooth top topic total touch tour toward town toy track trade traffic train travel treat "
    "tree trial trip trouble true trust try turn twice type under understand union unit until update "
    "upper urgent use useful user usual valid value vary version very video view visit visitor voice "
    "volume wage wait wake walk wall want war warehouse warm warning warranty wash waste water wave "
    "way weak wear weather web week weekly weight welcome well west what wheel when where which while "
    "who whole why wide wife win wind window winter wish with within without word work worker world "
    "worry worse worst worth would write wrong yard year yes yesterday yet young zero zone"
).split()

_SUFFIXES = ("s", "ed", "ing", "er", "ly", "ness", "ful", "less")


def word(rng):
    """A common word, at times with a suffix that may make a word nobody uses."""
    base = rng.choice(WORDS)
    return base + rng.choice(_SUFFIXES) if rng.random() < 0.2 else base


def phrase(rng):
    """Two to five words."""
    text = " ".join(word(rng) for _ in range(rng.randint(2, 5)))
    return text.capitalize() if rng.random() < 0.3 else text


def identifier(rng):
    """A name for a key or column: `word`, `word_word`, `wordWord`, `WORD`."""
    first, second = rng.choice(WORDS), rng.choice(WORDS)
    form = rng.randrange(8)
    if form <= 2:
        return first
    if form <= 5:
        return f"{first}_{second[:rng.choice((3, 4, 12, 12))]}"
    return first + second.capitalize() if form == 6 else first.upper()
