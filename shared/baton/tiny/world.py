"""What the tiny model knows about the world: tables of facts, and nothing else.

`skills` turns each row into questions and answers, `corpus` into sentences. Every row must be true
and must fit one short sentence; a new row costs the model capacity, so keep the tables small.
"""

from __future__ import annotations

CAPITALS: dict[str, str] = {
    "Argentina": "Buenos Aires", "Australia": "Canberra", "Austria": "Vienna", "Belgium": "Brussels",
    "Brazil": "Brasilia", "Bulgaria": "Sofia", "Canada": "Ottawa", "Chile": "Santiago",
    "China": "Beijing", "Croatia": "Zagreb", "Cuba": "Havana", "Denmark": "Copenhagen",
    "Egypt": "Cairo", "Estonia": "Tallinn", "Finland": "Helsinki", "France": "Paris",
    "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest", "Iceland": "Reykjavik",
    "India": "New Delhi", "Indonesia": "Jakarta", "Iran": "Tehran", "Iraq": "Baghdad",
    "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi",
    "Latvia": "Riga", "Lithuania": "Vilnius", "Mexico": "Mexico City", "Morocco": "Rabat",
    "Netherlands": "Amsterdam", "New Zealand": "Wellington", "Norway": "Oslo", "Peru": "Lima",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Romania": "Bucharest", "Serbia": "Belgrade",
    "South Korea": "Seoul", "Spain": "Madrid", "Sweden": "Stockholm", "Switzerland": "Bern",
    "Thailand": "Bangkok", "Turkey": "Ankara", "Ukraine": "Kyiv", "United Kingdom": "London",
    "United States": "Washington", "Vietnam": "Hanoi",
}  # fmt: skip

ARTICLED = frozenset({"Netherlands", "United Kingdom", "United States"})
"""Countries that English names with an article."""

LANGUAGES = ("French", "German", "Spanish", "Italian")

TRANSLATIONS: dict[str, tuple[str, str, str, str]] = {
    # English: French, German, Spanish, Italian
    "hello": ("bonjour", "hallo", "hola", "ciao"),
    "thank you": ("merci", "danke", "gracias", "grazie"),
    "please": ("s'il vous plaît", "bitte", "por favor", "per favore"),
    "yes": ("oui", "ja", "sí", "sì"),
    "no": ("non", "nein", "no", "no"),
    "goodbye": ("au revoir", "auf Wiedersehen", "adiós", "arrivederci"),
    "friend": ("ami", "Freund", "amigo", "amico"),
    "water": ("eau", "Wasser", "agua", "acqua"),
    "bread": ("pain", "Brot", "pan", "pane"),
    "cheese": ("fromage", "Käse", "queso", "formaggio"),
    "milk": ("lait", "Milch", "leche", "latte"),
    "coffee": ("café", "Kaffee", "café", "caffè"),
    "tea": ("thé", "Tee", "té", "tè"),
    "apple": ("pomme", "Apfel", "manzana", "mela"),
    "fish": ("poisson", "Fisch", "pez", "pesce"),
    "dog": ("chien", "Hund", "perro", "cane"),
    "cat": ("chat", "Katze", "gato", "gatto"),
    "horse": ("cheval", "Pferd", "caballo", "cavallo"),
    "bird": ("oiseau", "Vogel", "pájaro", "uccello"),
    "house": ("maison", "Haus", "casa", "casa"),
    "door": ("porte", "Tür", "puerta", "porta"),
    "window": ("fenêtre", "Fenster", "ventana", "finestra"),
    "book": ("livre", "Buch", "libro", "libro"),
    "tree": ("arbre", "Baum", "árbol", "albero"),
    "flower": ("fleur", "Blume", "flor", "fiore"),
    "sun": ("soleil", "Sonne", "sol", "sole"),
    "moon": ("lune", "Mond", "luna", "luna"),
    "star": ("étoile", "Stern", "estrella", "stella"),
    "sea": ("mer", "Meer", "mar", "mare"),
    "river": ("rivière", "Fluss", "río", "fiume"),
    "mountain": ("montagne", "Berg", "montaña", "montagna"),
    "city": ("ville", "Stadt", "ciudad", "città"),
    "man": ("homme", "Mann", "hombre", "uomo"),
    "woman": ("femme", "Frau", "mujer", "donna"),
    "child": ("enfant", "Kind", "niño", "bambino"),
    "mother": ("mère", "Mutter", "madre", "madre"),
    "father": ("père", "Vater", "padre", "padre"),
    "day": ("jour", "Tag", "día", "giorno"),
    "night": ("nuit", "Nacht", "noche", "notte"),
    "red": ("rouge", "rot", "rojo", "rosso"),
    "blue": ("bleu", "blau", "azul", "blu"),
    "green": ("vert", "grün", "verde", "verde"),
    "white": ("blanc", "weiß", "blanco", "bianco"),
    "black": ("noir", "schwarz", "negro", "nero"),
    "one": ("un", "eins", "uno", "uno"),
    "two": ("deux", "zwei", "dos", "due"),
    "three": ("trois", "drei", "tres", "tre"),
    "love": ("amour", "Liebe", "amor", "amore"),
}

COLOURS: dict[str, str] = {
    "the sky": "blue", "the sea": "blue", "grass": "green", "a leaf": "green", "a frog": "green",
    "snow": "white", "milk": "white", "a swan": "white", "coal": "black", "the night": "black",
    "a banana": "yellow", "a lemon": "yellow", "the sun": "yellow", "a tomato": "red",
    "a strawberry": "red", "blood": "red", "a carrot": "orange", "an orange": "orange",
    "a pumpkin": "orange", "chocolate": "brown", "wood": "brown", "a flamingo": "pink",
    "an elephant": "grey", "a plum": "purple",
}  # fmt: skip

MIXTURES: dict[tuple[str, str], str] = {
    ("red", "blue"): "purple",
    ("red", "yellow"): "orange",
    ("blue", "yellow"): "green",
    ("black", "white"): "grey",
    ("red", "white"): "pink",
}

OPPOSITES: dict[str, str] = {
    "hot": "cold", "big": "small", "fast": "slow", "happy": "sad", "old": "young", "light": "dark",
    "up": "down", "left": "right", "open": "closed", "full": "empty", "high": "low", "long": "short",
    "early": "late", "good": "bad", "wet": "dry", "loud": "quiet", "rich": "poor", "day": "night",
    "black": "white", "near": "far", "hard": "soft", "first": "last", "always": "never", "yes": "no",
}  # fmt: skip

SOUNDS: dict[str, str] = {
    "cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink",
    "lion": "roar", "frog": "croak", "bee": "buzz", "owl": "hoot", "horse": "neigh", "mouse": "squeak",
}  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
SEASONS = ("spring", "summer", "autumn", "winter")
PLANETS = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen", "twenty",
)  # fmt: skip
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
)  # fmt: skip

COUNTS: dict[str, int] = {
    "days are in a week": 7,
    "months are in a year": 12,
    "days are in a year": 365,
    "hours are in a day": 24,
    "minutes are in an hour": 60,
    "seconds are in a minute": 60,
    "letters are in the alphabet": 26,
    "legs does a dog have": 4,
    "legs does a spider have": 8,
    "legs does an ant have": 6,
    "wheels does a car have": 4,
    "wheels does a bicycle have": 2,
    "sides does a triangle have": 3,
    "sides does a square have": 4,
    "fingers are on one hand": 5,
    "planets are in the solar system": 8,
    "eggs are in a dozen": 12,
}

WORDS = (
    "apple", "bag", "ball", "banana", "baton", "bell", "bird", "boat", "book", "box", "bread", "bus",
    "cake", "car", "cat", "chair", "cloud", "code", "coin", "cow", "cup", "desk", "dog", "door",
    "dream", "duck", "ear", "egg", "eye", "fish", "flag", "fox", "frog", "game", "gift", "gold",
    "hand", "hat", "home", "horse", "house", "ice", "ink", "jam", "key", "king", "kite", "lamp",
    "leaf", "lemon", "light", "lion", "map", "milk", "moon", "mouse", "music", "nest", "net", "night",
    "nose", "ocean", "owl", "page", "paper", "pen", "piano", "pig", "pod", "queen", "rain", "river",
    "road", "robot", "rose", "salt", "ship", "shoe", "sky", "snow", "song", "star", "stone", "sugar",
    "sun", "table", "tea", "tiger", "token", "train", "tree", "tulip", "water", "wind", "wolf", "zebra",
)  # fmt: skip
"""Short words for repeating, spelling, reversing and remembering."""

NAMES = (
    "Ada", "Alice", "Anna", "Ben", "Bob", "Carla", "Clara", "Daniel", "David", "Emma", "Eva", "Felix",
    "Grace", "Hugo", "Ida", "Jack", "Jane", "John", "Julia", "Karl", "Laura", "Leo", "Lily", "Lucas",
    "Maria", "Mark", "Max", "Mia", "Nina", "Noah", "Oliver", "Omar", "Paul", "Peter", "Rosa", "Sam",
    "Sara", "Sofia", "Tom", "Yuki",
)  # fmt: skip

SIGNS = (
    "🎉",
    "😀",
    "☃",
    "★",
    "♥",
    "→",
    "你好",
    "こんにちは",
    "привет",
    "γειά",
    "naïve",
    "über",
    "€",
    "½",
    "🚀🚀",
    "👍",
)
"""Text outside ASCII, for repeating: it makes the model stream partial characters now and then."""
