"""Generated problems: arithmetic and algebra in words, in twenty families, each with its answer and a way to it.

A problem is made from a seed, a family and a level; the same three give the same problem everywhere.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

LEVELS: Final = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with one number as its answer."""

    family: str
    text: str
    answer: str
    """The number: "12", "-3" or "7/2"."""
    code: str = ""
    """Python that prints the answer."""


def make_problem(family: str, level: int, seed: str) -> Problem:
    """Return the problem of a family and a seed.

    Args:
        family: One of `FAMILIES`.
        level: 1, 2 or 3: how large the numbers are, and how many there are.
        seed: Decides everything else.
    """
    text, answer, code = FAMILIES[family](random.Random(f"{family}/{level}/{seed}"), level)
    return Problem(family, text, str(answer), code)


_Made = tuple[str, int | Fraction, str]
_NAMES: Final = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hal", "Ivy", "Jon", "Kim", "Liv", "Max", "Nia")
_GOODS: Final = ("apples", "books", "candles", "cups", "eggs", "flowers", "kites", "lamps", "pens", "stamps")


def _up_to(rng: random.Random, level: int, *limits: int) -> int:
    """Draw a number from 2 to the level's limit."""
    return rng.randint(2, limits[level - 1])


def _sums(rng: random.Random, level: int) -> _Made:
    terms = [str(_up_to(rng, level, 20, 100, 1000))]
    for _ in range(level + 1):
        terms += [rng.choice("+-*"), str(_up_to(rng, level, 10, 20, 100))]
    expression = " ".join(terms)
    value = _value(terms)
    return f"What is {expression}?", value, f"print({expression})"


def _value(terms: list[str]) -> int:
    """Work out a chain of sums and products."""
    total, product = 0, int(terms[0])
    for operator, number in zip(terms[1::2], map(int, terms[2::2]), strict=True):
        if operator == "*":
            product *= number
        else:
            total, product = total + product, number if operator == "+" else -number
    return total + product


def _shopping(rng: random.Random, level: int) -> _Made:
    name, goods = rng.choice(_NAMES), rng.sample(_GOODS, level + 1)
    counts = [_up_to(rng, level, 9, 20, 60) for _ in goods]
    prices = [_up_to(rng, level, 9, 20, 60) for _ in goods]
    cost = sum(count * price for count, price in zip(counts, prices, strict=True))
    paid = (cost // 50 + 1) * 50
    bought = " and ".join(f"{n} {what} at ${price} each" for n, what, price in zip(counts, goods, prices, strict=True))
    spent = " - ".join(f"{count} * {price}" for count, price in zip(counts, prices, strict=True))
    return (
        f"{name} buys {bought}, and pays with ${paid}. How many dollars does {name} get back?",
        paid - cost,
        f"print({paid} - {spent})",
    )


def _sharing(rng: random.Random, level: int) -> _Made:
    boxes, each = _up_to(rng, level, 12, 40, 400), _up_to(rng, level, 12, 40, 90)
    friends, what = _up_to(rng, level, 7, 13, 37), rng.choice(_GOODS)
    return (
        f"There are {boxes} boxes of {each} {what}. {friends} friends share all of them equally, each getting as many "
        f"as possible. How many {what} are left over?",
        boxes * each % friends,
        f"print({boxes} * {each} % {friends})",
    )


def _journey(rng: random.Random, level: int) -> _Made:
    legs = [(10 * _up_to(rng, level, 6, 10, 12), _up_to(rng, level, 4, 6, 9)) for _ in range(level + 1)]
    told = ", then ".join(f"{hours} hours at {speed} km/h" for speed, hours in legs)
    distance, time = sum(speed * hours for speed, hours in legs), sum(hours for _, hours in legs)
    if level == 1:
        return f"A train travels {told}. How many kilometres is that?", distance, f"print({distance})"
    return (
        f"A train travels {told}. What is its average speed in km/h? Give an exact number, as a fraction if need be.",
        Fraction(distance, time),
        f"from fractions import Fraction\nprint(Fraction({distance}, {time}))",
    )


def _discount(rng: random.Random, level: int) -> _Made:
    price = 20 * _up_to(rng, level, 10, 50, 400)
    cuts = [5 * rng.randint(1, 10) for _ in range(level)]
    cost = Fraction(price)
    for cut in cuts:
        cost *= Fraction(100 - cut, 100)
    told = " and then by another ".join(f"{cut}%" for cut in cuts)
    factors = "".join(f" * Fraction({100 - cut}, 100)" for cut in cuts)
    return (
        f"A coat costs ${price}. Its price is cut by {told}. What does it cost now, in dollars? Give an exact number.",
        cost,
        f"from fractions import Fraction\nprint({price}{factors})",
    )


def _ages(rng: random.Random, level: int) -> _Made:
    old, young = rng.sample(_NAMES, 2)
    times, age, years = _up_to(rng, level, 3, 4, 6), _up_to(rng, level, 9, 12, 15), _up_to(rng, level, 5, 12, 20)
    total = (times + 1) * age + 2 * years
    return (
        f"{old} is {times} times as old as {young}. In {years} years they will be {total} years old together. How old "
        f"is {young} now?",
        age,
        f"print(({total} - 2 * {years}) // ({times} + 1))",
    )


def _pipes(rng: random.Random, level: int) -> _Made:
    hours = [_up_to(rng, level, 6, 12, 30) for _ in range(2 if level < 3 else 3)]
    rate = sum((Fraction(1, each) for each in hours), Fraction(0))
    told = ", ".join(map(str, hours[:-1])) + f" and {hours[-1]}"
    rates = " + ".join(f"Fraction(1, {each})" for each in hours)
    return (
        f"{len(hours)} pipes fill a tank alone in {told} hours. How many hours do they take together? Give an exact "
        "number, as a fraction if need be.",
        1 / rate,
        f"from fractions import Fraction\nprint(1 / ({rates}))",
    )


def _field(rng: random.Random, level: int) -> _Made:
    length, width = _up_to(rng, level, 20, 60, 300), _up_to(rng, level, 20, 60, 300)
    perimeter = 2 * (length + width)
    if level < 3:
        return (
            f"A rectangular field has a perimeter of {perimeter} m and a length of {length} m. What is its area in "
            "square metres?",
            length * width,
            f"print({length} * ({perimeter} // 2 - {length}))",
        )
    path = rng.randint(1, 9)
    return (
        f"A rectangular field has a perimeter of {perimeter} m and a length of {length} m. A path {path} m wide runs "
        "around it on the outside. What is the area of the path in square metres?",
        (length + 2 * path) * (width + 2 * path) - length * width,
        f"w = {perimeter} // 2 - {length}\nprint(({length} + {2 * path}) * (w + {2 * path}) - {length} * w)",
    )


def _buses(rng: random.Random, level: int) -> _Made:
    minutes = [_up_to(rng, level, 12, 30, 60) for _ in range(level + 1)]
    told = ", ".join(map(str, minutes[:-1])) + f" and {minutes[-1]}"
    return (
        f"{len(minutes)} buses leave a station together, and then every {told} minutes. After how many minutes do they "
        "leave together again?",
        math.lcm(*minutes),
        f"import math\nprint(math.lcm{tuple(minutes)})",
    )


def _powers(rng: random.Random, level: int) -> _Made:
    base, exponent, modulus = (
        _up_to(rng, level, 9, 20, 99),
        _up_to(rng, level, 5, 20, 999),
        _up_to(rng, level, 9, 30, 97),
    )
    return (
        f"What is the remainder of {base}^{exponent} divided by {modulus}?",
        pow(base, exponent, modulus),
        f"print(pow({base}, {exponent}, {modulus}))",
    )


def _series(rng: random.Random, level: int) -> _Made:
    first, step, count = rng.randint(1, 20), _up_to(rng, level, 5, 12, 40), _up_to(rng, level, 8, 30, 200) + 2
    shown = ", ".join(str(first + step * index) for index in range(3))
    total = count * (2 * first + (count - 1) * step) // 2
    return (
        f"The sequence {shown}, ... goes on with the same difference. What is the sum of its first {count} terms?",
        total,
        f"print(sum({first} + {step} * i for i in range({count})))",
    )


def _equation(rng: random.Random, level: int) -> _Made:
    x = rng.randint(-5, 10) if level == 1 else rng.randint(-50 * level, 50 * level)
    left, right = rng.sample(range(2, 6 + 5 * level), 2)
    shift = _up_to(rng, level, 20, 60, 300)
    constant = (left - right) * x + shift
    return (
        f"Solve for x: {left}x + {shift} = {right}x {'+' if constant >= 0 else '-'} {abs(constant)}. What is x?",
        x,
        f"print(({constant} - {shift}) // ({left} - {right}))",
    )


def _farm(rng: random.Random, level: int) -> _Made:
    hens, cows = _up_to(rng, level, 15, 60, 500), _up_to(rng, level, 15, 60, 500)
    heads, legs = hens + cows, 2 * hens + 4 * cows
    return (
        f"A farm has hens and cows, {heads} heads and {legs} legs in all. How many cows are there?",
        cows,
        f"print(({legs} - 2 * {heads}) // 2)",
    )


def _choosing(rng: random.Random, level: int) -> _Made:
    people = _up_to(rng, level, 12, 18, 25) + 2
    chosen = rng.randint(2, people - 1)
    if level < 3:
        return (
            f"In how many ways can a team of {chosen} be chosen from {people} people?",
            math.comb(people, chosen),
            f"import math\nprint(math.comb({people}, {chosen}))",
        )
    return (
        f"In how many ways can a team of {chosen} be chosen from {people} people, and one of the team as its captain?",
        math.comb(people, chosen) * chosen,
        f"import math\nprint(math.comb({people}, {chosen}) * {chosen})",
    )


def _growth(rng: random.Random, level: int) -> _Made:
    shown, factor, gone, weeks = _up_to(rng, level, 9, 20, 50) + 4, rng.randint(2, 3), rng.randint(2, 4), level + 2
    number = shown
    for _ in range(weeks):
        number = number * factor - gone
    return (
        f"A pond has {shown} fish. Every week their number becomes {factor} times as large, and then {gone} are "
        f"caught. How many fish are there after {weeks} weeks?",
        number,
        f"n = {shown}\nfor _ in range({weeks}):\n    n = n * {factor} - {gone}\nprint(n)",
    )


def _average(rng: random.Random, level: int) -> _Made:
    count, before, rise = _up_to(rng, level, 5, 12, 40), _up_to(rng, level, 20, 60, 200), rng.randint(1, 3 * level)
    added = (before + rise) * (count + 1) - before * count
    return (
        f"The average of {count} numbers is {before}. With one more number it is {before + rise}. What is that number?",
        added,
        f"print({before + rise} * {count + 1} - {before} * {count})",
    )


def _digits(rng: random.Random, level: int) -> _Made:
    base, exponent = _up_to(rng, level, 20, 30, 200), rng.randint(2, 4 if level == 1 else 8 * level)
    return (
        f"What is the sum of the digits of {base}^{exponent}?",
        sum(map(int, str(base**exponent))),
        f"print(sum(map(int, str({base} ** {exponent}))))",
    )


def _balls(rng: random.Random, level: int) -> _Made:
    red, blue = _up_to(rng, level, 6, 12, 30), _up_to(rng, level, 6, 12, 30)
    drawn = min(level, red)
    taken = "One of them is" if drawn == 1 else f"{drawn} of them are"
    return (
        f"An urn holds {red} red and {blue} blue balls. {taken} drawn without looking and not put back. What is the "
        f"probability of drawing {'a red one' if drawn == 1 else 'nothing but red ones'}? Give a fraction.",
        Fraction(math.comb(red, drawn), math.comb(red + blue, drawn)),
        "from fractions import Fraction\nfrom math import comb\n"
        f"print(Fraction(comb({red}, {drawn}), comb({red + blue}, {drawn})))",
    )


def _primes(rng: random.Random, level: int) -> _Made:
    start = _up_to(rng, level, 20, 100, 5000)
    end = start + _up_to(rng, level, 20, 100, 800)
    return (
        f"How many prime numbers are there from {start} to {end}, both included?",
        sum(_is_prime(number) for number in range(start, end + 1)),
        f"print(sum(all(n % d for d in range(2, int(n ** 0.5) + 1)) for n in range({start}, {end} + 1)))",
    )


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _coins(rng: random.Random, level: int) -> _Made:
    coins = sorted(rng.sample((1, 2, 3, 5, 7, 10, 20), level + 1))
    amount = _up_to(rng, level, 20, 60, 200) + 10
    ways = [1] + [0] * amount
    for coin in coins:
        for reached in range(coin, amount + 1):
            ways[reached] += ways[reached - coin]
    told = ", ".join(map(str, coins[:-1])) + f" and {coins[-1]}"
    return (
        f"There are coins of {told} cents, as many as one likes of each. In how many ways can exactly {amount} cents "
        "be paid? The order of the coins does not matter.",
        ways[amount],
        f"w = [1] + [0] * {amount}\nfor c in {coins}:\n    for r in range(c, {amount} + 1):\n"
        f"        w[r] += w[r - c]\nprint(w[{amount}])",
    )


FAMILIES: Final[Mapping[str, Callable[[random.Random, int], _Made]]] = {
    "ages": _ages,
    "average": _average,
    "balls": _balls,
    "buses": _buses,
    "choosing": _choosing,
    "coins": _coins,
    "digits": _digits,
    "discount": _discount,
    "equation": _equation,
    "farm": _farm,
    "field": _field,
    "growth": _growth,
    "journey": _journey,
    "pipes": _pipes,
    "powers": _powers,
    "primes": _primes,
    "series": _series,
    "sharing": _sharing,
    "shopping": _shopping,
    "sums": _sums,
}
"""By name."""
