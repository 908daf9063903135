"""Word lists, words that do not exist, and the few ways to draw from them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


def listed(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


NAMES = listed("""
Ada Alan Amir Ana Anya Ben Bo Carl Clara Dana David Diego Ella Emma Eva Fatima Felix Finn Grace Hana Hugo Ida
Igor Ines Ivan Jack Jana Joan John Jonas Kai Karl Kim Lara Leo Lena Lily Linus Luca Lucy Maja Maria Mark Max
Mia Mila Mina Nadia Nia Nick Nina Noah Nora Olga Omar Oscar Otto Paul Petra Priya Ravi Rosa Ruth Sam Sara
Sofia Tara Theo Tim Tom Uma Vera Viktor Wei Yara Yuki Zoe Zara Quinn Ruben Selma Tariq Ursula Vince Wanda
Xenia
""")
COLOURS = listed("""
red blue green yellow purple orange pink black white brown grey gold silver violet teal
""")
CITIES = listed("""
Berlin Paris London Rome Madrid Lisbon Vienna Prague Warsaw Oslo Stockholm Helsinki Dublin Athens Cairo
Nairobi Lagos Tokyo Kyoto Seoul Beijing Delhi Mumbai Sydney Auckland Toronto Boston Chicago Denver Austin
Lima Quito Bogota Havana Milan Zurich Geneva Munich Hamburg Cologne Porto Seville Naples Turin Lyon Nice
Ghent Bergen Malmo Tampere
""")
ANIMALS = listed("""
cat dog rabbit horse parrot turtle hamster goat fox bear platypus otter owl penguin dolphin whale tiger lion
wolf mouse frog duck goose sheep pony lizard snake crab beaver badger
""")
FOODS = listed("""
pizza pasta soup bread cheese rice salad cake apples pears plums cherries grapes noodles tacos curry pancakes
honey
""")
JOBS = listed("""
teacher doctor baker pilot nurse farmer painter writer sailor chef gardener engineer carpenter plumber singer
dancer
""")
NOUNS = listed("""
apple river stone cloud garden window table lamp bridge forest mountain candle basket mirror ladder pocket
engine bottle button castle desert feather hammer island jacket kettle lantern magnet needle ocean pencil
quilt rocket saddle tunnel umbrella valley wagon yarn zipper anchor blanket compass drum envelope flute glove
helmet ink jar kite leaf
""")
ADJECTIVES = listed("""
small big old young quiet loud happy sad brave shy kind clever lazy quick slow soft bright dark warm cold tiny
huge
""")
CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Ireland": "Dublin",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Australia": "Canberra",
    "Canada": "Ottawa",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Cuba": "Havana",
    "Denmark": "Copenhagen",
    "Belgium": "Brussels",
    "Hungary": "Budapest",
    "Turkey": "Ankara",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Brazil": "Brasilia",
    "Mexico": "Mexico City",
    "Argentina": "Buenos Aires",
    "Colombia": "Bogota",
    "Ecuador": "Quito",
    "Morocco": "Rabat",
    "Ghana": "Accra",
    "Nigeria": "Abuja",
    "Iceland": "Reykjavik",
    "Estonia": "Tallinn",
    "Latvia": "Riga",
    "Croatia": "Zagreb",
    "Serbia": "Belgrade",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Ukraine": "Kyiv",
    "Jordan": "Amman",
    "Nepal": "Kathmandu",
    "Netherlands": "Amsterdam",
    "Switzerland": "Bern",
}
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = listed("""
January February March April May June July August September October November December
""")
PLACES = listed("park forest garden village harbour market")
WORD_LISTS = [NOUNS, ADJECTIVES, ANIMALS, COLOURS, FOODS, NAMES, CITIES]

ONSETS = listed("b c d f g h j k l m n p r s t v w z br ch cr dr fl gr kr pl qu sh sk st th tr")
VOWELS = listed("a a e e i i o o u ai ea ee oo ou")
CODAS = ["", "", "", *listed("n r s x l t d m k ck nd rt ll th")]


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of the options."""
    return rng.choice(options)


def chance(rng: Random, probability: float) -> bool:
    """True with this probability, from 0 to 1."""
    return rng.random() < probability


def some_words(rng: Random, most: int) -> str:
    """One to `most` words from all lists, separated by spaces."""
    return " ".join(pick(rng, pick(rng, WORD_LISTS)) for _ in range(rng.randint(1, most)))


def random_word(rng: Random) -> str:
    """A word that does not exist: two or three syllables in lower case."""
    syllables = (pick(rng, "bcdfghjklmnprstvwz") + pick(rng, "aeiou") for _ in range(rng.randint(2, 3)))
    return "".join(syllables) + pick(rng, ["", "n", "r", "s", "x"])


def invented_name(rng: Random) -> str:
    """A name that does not exist, of more varied letters than `random_word`."""
    count = pick(rng, [1, 2, 2, 2, 3])
    parts = [pick(rng, ONSETS) + pick(rng, VOWELS) + pick(rng, CODAS) for _ in range(count)]
    if chance(rng, 0.15):
        parts.append(pick(rng, ["man", "bot", "ia", "us", "ella"]))
    return "".join(parts).capitalize()


def person(rng: Random, invented: float = 0.35) -> str:
    """A name, invented with this probability: names from the list alone would be learnt, not read."""
    return invented_name(rng) if chance(rng, invented) else pick(rng, NAMES)
