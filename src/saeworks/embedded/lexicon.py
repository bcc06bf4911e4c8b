"""The words of the embedded grammar, by class.

Every list is plain data. The vocabulary of the tokenizer is derived from these lists and from
the templates of the domains, so that no generated document ever holds an unknown token.
"""


def words(text: str) -> tuple[str, ...]:
    """The words of a text, for lists that read better as prose."""
    return tuple(text.split())


FEMALE_NAMES = words(
    """
    Mary Anna Clara Diana Elena Fiona Grace Helen Irene Julia Karen Laura Maria Nora Olivia Paula
    Rachel Sarah Teresa Ursula Vera Wendy Alice Bertha Carol Daisy Emma Flora Gina Hannah Ivy Jane
    Kate Lucy Martha Nina
    """
)
MALE_NAMES = words(
    """
    John Adam Brian Carl David Eric Frank George Henry Ivan James Kevin Leon Martin Neil Oscar
    Peter Robert Simon Thomas Victor Walter Albert Bernard Colin Daniel Edward Felix Gerald Harold
    Isaac Jacob Kurt Louis Mark Noah
    """
)

SHOP_PLACES = words(
    """
    shop school park market library garden station museum beach office hospital restaurant theatre
    church farm bakery harbour castle zoo cinema bank hotel stadium village
    """
)
GIFTS = words(
    """
    drink book letter ring ball key flower cake hat coin map lamp pen box toy basket camera ticket
    watch scarf necklace violin painting kite cup apple blanket bracelet newspaper gift
    """
)
PETS = words("dog cat rabbit parrot pony turtle hamster goose lamb kitten")
GIVING_VERBS = words("gave handed passed showed offered sent brought lent sold")

HAPPY_ADJECTIVES = words("happy glad cheerful proud excited joyful delighted grateful")
SAD_ADJECTIVES = words("sad tired lonely gloomy angry worried upset miserable")
HAPPY_ADVERBS = words("happily gladly cheerfully proudly brightly warmly")
SAD_ADVERBS = words("sadly slowly bitterly quietly wearily coldly")

REALMS = words(
    """
    Alderia Borland Casteria Dorvale Estmark Frelia Galdor Harwick Istria Jorland Kestria Lorvale
    Mornia Nordmark Orland Pellia Quoria Rethia Sorland Tarvia
    """
)
CITIES = words(
    """
    Ashford Brenton Corvale Dunmore Elmsby Farrow Greyport Holmby Inverne Kingsbury Lindow Marsby
    Northam Oakham Penrith Redford Stonby Thornby Westport Yarrow
    """
)
KINGS = words("Aldric Boris Cedric Edgar Godwin Harald Leopold Osric Rudolf Sigmund")
QUEENS = words("Adela Beatrix Cordelia Edith Gisela Hilda Isolde Matilda Rowena Sigrid")
LONG_EVENTS = words(
    """
    war siege famine plague rebellion drought blockade crusade truce occupation alliance feud
    revolt campaign expedition
    """
)
EVENT_ADJECTIVES = words(
    """
    long bloody terrible famous costly glorious cruel great bitter forgotten
    """
)
# (plural group of people, past-tense verbs they take, objects of those verbs)
PEOPLE_PLURAL = words(
    """
    merchants soldiers farmers monks sailors nobles peasants knights weavers miners
    """
)
PEOPLE_VERBS = words(
    """
    built burned defended captured rebuilt abandoned painted repaired robbed blessed
    """
)
BUILDINGS = words(
    """
    bridge cathedral fortress palace tower mill abbey gate wall mine arsenal granary
    """
)

# singular, plural, class
NOUNS = (
    *(
        (singular, plural, "animal")
        for singular, plural in (
            ("horse", "horses"), ("cow", "cows"), ("fox", "foxes"), ("wolf", "wolves"),
            ("mouse", "mice"), ("duck", "ducks"), ("owl", "owls"), ("bear", "bears"),
            ("goat", "goats"), ("pig", "pigs"), ("bird", "birds"), ("spider", "spiders"),
        )
    ),
    *(
        (singular, plural, "furniture")
        for singular, plural in (
            ("cabinet", "cabinets"), ("table", "tables"), ("chair", "chairs"), ("bed", "beds"),
            ("shelf", "shelves"), ("desk", "desks"), ("bench", "benches"), ("sofa", "sofas"),
            ("door", "doors"), ("mirror", "mirrors"), ("clock", "clocks"), ("carpet", "carpets"),
        )
    ),
    *(
        (singular, plural, "tool")
        for singular, plural in (
            ("hammer", "hammers"), ("knife", "knives"), ("saw", "saws"), ("shovel", "shovels"),
            ("needle", "needles"), ("axe", "axes"), ("brush", "brushes"), ("rope", "ropes"),
            ("ladder", "ladders"), ("bucket", "buckets"), ("wrench", "wrenches"),
            ("nail", "nails"),
        )
    ),
    *(
        (singular, plural, "plant")
        for singular, plural in (
            ("tree", "trees"), ("rose", "roses"), ("bush", "bushes"), ("leaf", "leaves"),
            ("vine", "vines"), ("fern", "ferns"), ("branch", "branches"), ("tulip", "tulips"),
            ("oak", "oaks"), ("weed", "weeds"), ("lily", "lilies"), ("cactus", "cacti"),
        )
    ),
    *(
        (singular, plural, "person")
        for singular, plural in (
            ("man", "men"), ("woman", "women"), ("child", "children"), ("teacher", "teachers"),
            ("nurse", "nurses"), ("baker", "bakers"), ("guard", "guards"), ("sailor", "sailors"),
            ("driver", "drivers"), ("painter", "painters"), ("singer", "singers"),
            ("lawyer", "lawyers"),
        )
    ),
)  # fmt: skip
CLASS_ADJECTIVES = {
    "animal": words("hungry furry wild tame sleepy fierce spotted gentle"),
    "furniture": words("wooden dusty polished antique heavy carved narrow broken"),
    "tool": words("rusty sharp useful blunt sturdy worn shiny cheap"),
    "plant": words("green tall withered fragrant leafy thorny young dry"),
    "person": words("kind busy clever polite nervous rich honest brave"),
}
CLASS_VERBS = {
    "animal": (
        ("sleeps", "sleep"),
        ("hides", "hide"),
        ("runs", "run"),
        ("waits", "wait"),
    ),
    "furniture": (("stands", "stand"), ("creaks", "creak"), ("remains", "remain")),
    "tool": (("lies", "lie"), ("hangs", "hang"), ("rests", "rest")),
    "plant": (("grows", "grow"), ("blooms", "bloom"), ("fades", "fade")),
    "person": (
        ("smiles", "smile"),
        ("works", "work"),
        ("laughs", "laugh"),
        ("sings", "sing"),
    ),
}
CLASS_PARTS = {
    "animal": words("tail coat nose voice"),
    "furniture": words("frame surface corner edge"),
    "tool": words("handle blade tip grip"),
    "plant": words("stem root scent shade"),
    "person": words("smile job plan house"),
}
LOOK_ADJECTIVES = words("old new small large red blue white black strange beautiful")
# lemma, singular, plural; the copula-like verbs take any adjective, the first two head the tasks
LINKING_VERBS = (
    ("be", "is", "are"),
    ("look", "looks", "look"),
    ("seem", "seems", "seem"),
    ("appear", "appears", "appear"),
    ("become", "becomes", "become"),
)
HAVE = ("have", "has", "have")
SEEING_VERBS = (
    ("see", "sees", "see"),
    ("like", "likes", "like"),
    ("watch", "watches", "watch"),
    ("need", "needs", "need"),
    ("own", "owns", "own"),
    ("draw", "draws", "draw"),
)
NEAR_PREPOSITIONS = words("near behind beside above below")
PLURAL_QUANTIFIERS = words("many several few all some both")
SINGULAR_QUANTIFIERS = words("every each one this that")
# season: weather adjectives, signs
SEASONS = {
    "spring": (
        words("mild fresh rainy breezy"),
        words("blossoms showers nests"),
    ),
    "summer": (
        words("hot sunny bright dry"),
        words("bees picnics storms"),
    ),
    "autumn": (
        words("windy misty golden damp"),
        words("harvests mushrooms fogs"),
    ),
    "winter": (
        words("cold snowy icy frozen"),
        words("icicles snowflakes frosts"),
    ),
}
SCENES = words("valley meadow courtyard kitchen barn workshop attic cellar street forest")

DISHES = words("soup stew pie bread salad pancakes omelette curry pudding sauce")
# ingredient -> kind; the kind decides unit and verbs
INGREDIENTS = {
    "liquid": words("milk water oil vinegar cream broth wine honey"),
    "powder": words("flour sugar salt cocoa pepper cinnamon yeast paprika"),
    "solid": words("butter cheese bacon chicken chocolate tofu ham beef"),
    "vegetable": words("onions carrots tomatoes potatoes leeks mushrooms beans peas"),
}
INGREDIENT_VERBS = {
    "liquid": words("Pour Heat Boil"),
    "powder": words("Sift Sprinkle Measure"),
    "solid": words("Melt Grate Slice"),
    "vegetable": words("Chop Peel Wash"),
}
UNITS = {
    "metric": {
        "liquid": "millilitres",
        "powder": "grams",
        "solid": "grams",
        "vegetable": "kilos",
    },
    "imperial": {
        "liquid": "pints",
        "powder": "ounces",
        "solid": "ounces",
        "vegetable": "pounds",
    },
}
VESSELS = words("bowl pan pot dish oven jar")
SERVING = {"hot": words("soup stew omelette curry pie")}

SERVICES = words("auth disk cache mail proxy queue billing search backup scheduler")
RESOURCES = words("session file job request lock channel")
FAULTS = words("timeout overflow refused corrupted missing denied")

NUMBER_WORDS = words("two three four five six seven eight nine ten twelve twenty")
