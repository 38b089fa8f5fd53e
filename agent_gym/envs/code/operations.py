"""The steps of which generated programming tasks are made: small functions whose docstrings are the instructions.

A task's reference solution is the source of these very functions, so everything in one must stand in itself. What is
called `k` in an instruction is drawn for each task.
"""


# -- numbers to numbers ------------------------------------------------------------------------------------------------


def drop_negatives(numbers: list[int]) -> list[int]:
    """Remove the numbers that are below zero."""
    return [number for number in numbers if number >= 0]


def keep_even(numbers: list[int]) -> list[int]:
    """Keep only the even numbers."""
    return [number for number in numbers if number % 2 == 0]


def drop_multiples(numbers: list[int], k: int) -> list[int]:
    """Remove the numbers that can be divided by {k}."""
    return [number for number in numbers if number % k != 0]


def keep_larger(numbers: list[int], k: int) -> list[int]:
    """Keep only the numbers that are larger than {k}."""
    return [number for number in numbers if number > k]


def reverse_numbers(numbers: list[int]) -> list[int]:
    """Reverse the order of the list."""
    return numbers[::-1]


def sort_numbers(numbers: list[int]) -> list[int]:
    """Sort the list from the smallest number to the largest."""
    return sorted(numbers)


def sort_by_last_digit(numbers: list[int]) -> list[int]:
    """Sort the list by the last digit of the numbers, their sign ignored; equal ones keep their order."""
    return sorted(numbers, key=lambda number: abs(number) % 10)


def remove_repeated(numbers: list[int]) -> list[int]:
    """Remove every number that has occurred before in the list."""
    return list(dict.fromkeys(numbers))


def square_each(numbers: list[int]) -> list[int]:
    """Replace each number by its square."""
    return [number * number for number in numbers]


def add_to_each(numbers: list[int], k: int) -> list[int]:
    """Add {k} to each number."""
    return [number + k for number in numbers]


def multiply_each(numbers: list[int], k: int) -> list[int]:
    """Multiply each number by {k}."""
    return [number * k for number in numbers]


def remainder_of_each(numbers: list[int], k: int) -> list[int]:
    """Replace each number by its remainder when divided by {k}, which is never negative."""
    return [number % k for number in numbers]


def running_sums(numbers: list[int]) -> list[int]:
    """Replace each number by the sum of all numbers up to it, itself included."""
    sums: list[int] = []
    for number in numbers:
        sums.append(number + (sums[-1] if sums else 0))
    return sums


def running_maxima(numbers: list[int]) -> list[int]:
    """Replace each number by the largest number up to it, itself included."""
    return [max(numbers[: index + 1]) for index in range(len(numbers))]


def differences(numbers: list[int]) -> list[int]:
    """Replace the list by the differences of neighbours: each number from the second on minus the one before it."""
    return [numbers[index] - numbers[index - 1] for index in range(1, len(numbers))]


def rotate_left(numbers: list[int], k: int) -> list[int]:
    """Rotate the list to the left by {k} places."""
    if not numbers:
        return []
    shift = k % len(numbers)
    return numbers[shift:] + numbers[:shift]


def every_kth(numbers: list[int], k: int) -> list[int]:
    """Keep only the first number and every {k}th one after it."""
    return numbers[::k]


def swap_pairs(numbers: list[int]) -> list[int]:
    """Swap the first number with the second, the third with the fourth and so on; a last one without partner stays."""
    swapped = list(numbers)
    for index in range(0, len(numbers) - 1, 2):
        swapped[index], swapped[index + 1] = numbers[index + 1], numbers[index]
    return swapped


def clamp_each(numbers: list[int], k: int) -> list[int]:
    """Replace numbers above {k} by {k}, and numbers below -{k} by -{k}."""
    return [max(-k, min(k, number)) for number in numbers]


def times_index(numbers: list[int]) -> list[int]:
    """Multiply each number by its position in the list, where the first has the position 1."""
    return [number * position for position, number in enumerate(numbers, 1)]


# -- numbers to a number -----------------------------------------------------------------------------------------------


def total(numbers: list[int]) -> int:
    """Give the sum of the numbers."""
    return sum(numbers)


def largest(numbers: list[int]) -> int:
    """Give the largest number, or 0 if there are none."""
    return max(numbers, default=0)


def span(numbers: list[int]) -> int:
    """Give the difference between the largest and the smallest number, or 0 if there are none."""
    return max(numbers) - min(numbers) if numbers else 0


def count_odd(numbers: list[int]) -> int:
    """Count the odd numbers."""
    return sum(number % 2 for number in numbers)


def count_distinct(numbers: list[int]) -> int:
    """Count how many different numbers there are."""
    return len(set(numbers))


def alternating_sum(numbers: list[int]) -> int:
    """Give the first number minus the second plus the third minus the fourth and so on; 0 if there are none."""
    return sum(numbers[::2]) - sum(numbers[1::2])


def kth_largest(numbers: list[int], k: int) -> int:
    """Give the number in place {k} when the list is sorted from the largest down, or 0 if there are fewer."""
    return sorted(numbers, reverse=True)[k - 1] if len(numbers) >= k else 0


def most_frequent(numbers: list[int]) -> int:
    """Give the number that occurs most often, the smallest of those if there are several, or 0 if there are none."""
    return min(numbers, key=lambda number: (-numbers.count(number), number), default=0)


def longest_rise(numbers: list[int]) -> int:
    """Give the length of the longest stretch of neighbours in which each number is larger than the one before it."""
    best = length = min(len(numbers), 1)
    for index in range(1, len(numbers)):
        length = length + 1 if numbers[index] > numbers[index - 1] else 1
        best = max(best, length)
    return best


def best_stretch(numbers: list[int]) -> int:
    """Give the largest sum of any stretch of neighbours; a stretch may be empty and then has the sum 0."""
    best = current = 0
    for number in numbers:
        current = max(0, current + number)
        best = max(best, current)
    return best


# -- texts -------------------------------------------------------------------------------------------------------------


def reverse_text(text: str) -> str:
    """Reverse the text."""
    return text[::-1]


def reverse_words(text: str) -> str:
    """Reverse the order of the words, which are separated by single spaces."""
    return " ".join(text.split(" ")[::-1])


def drop_vowels(text: str) -> str:
    """Remove the vowels a, e, i, o and u, small and capital."""
    return "".join(letter for letter in text if letter.lower() not in "aeiou")


def swap_case(text: str) -> str:
    """Make small letters capital and capital letters small."""
    return text.swapcase()


def shift_letters(text: str, k: int) -> str:
    """Replace each letter from a to z by the one {k} places after it, going on with a after z; leave all else alone."""
    return "".join(chr((ord(c) - 97 + k) % 26 + 97) if "a" <= c <= "z" else c for c in text)


def double_letters(text: str) -> str:
    """Write every character twice."""
    return "".join(letter * 2 for letter in text)


def squeeze(text: str) -> str:
    """Of characters that follow each other and are the same, keep only the first."""
    return "".join(letter for index, letter in enumerate(text) if index == 0 or letter != text[index - 1])


def capitalise_words(text: str) -> str:
    """Make the first letter of each word a capital and leave the others; words are separated by single spaces."""
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def sort_letters(text: str) -> str:
    """Sort the characters of the text by their code points."""
    return "".join(sorted(text))


def every_kth_letter(text: str, k: int) -> str:
    """Keep only the first character and every {k}th one after it."""
    return text[::k]


def encode_runs(text: str) -> str:
    """Replace each run of the same character by the character and the length of the run, as in aab to a2b1."""
    runs: list[list[str | int]] = []
    for letter in text:
        if runs and runs[-1][0] == letter:
            runs[-1][1] = int(runs[-1][1]) + 1
        else:
            runs.append([letter, 1])
    return "".join(f"{letter}{count}" for letter, count in runs)


def drop_short_words(text: str, k: int) -> str:
    """Remove the words with fewer than {k} letters and join the others by single spaces."""
    return " ".join(word for word in text.split() if len(word) >= k)


# -- texts to other things ---------------------------------------------------------------------------------------------


def word_lengths(text: str) -> list[int]:
    """Give the list of the lengths of the words."""
    return [len(word) for word in text.split()]


def letter_positions(text: str) -> list[int]:
    """Give the list of the places in the alphabet of the letters from a to z, where a is 1; leave out all else."""
    return [ord(letter) - 96 for letter in text if "a" <= letter <= "z"]


def count_vowels(text: str) -> int:
    """Count the vowels a, e, i, o and u, small and capital."""
    return sum(letter.lower() in "aeiou" for letter in text)


def count_distinct_letters(text: str) -> int:
    """Count how many different characters there are."""
    return len(set(text))


def longest_word(text: str) -> str:
    """Give the longest word, the first of those if there are several, or an empty text if there is none."""
    return max(text.split(), key=len, default="")


# -- a number to other things ------------------------------------------------------------------------------------------


def digit_sum(number: int) -> int:
    """Give the sum of the digits of the number, its sign ignored."""
    return sum(int(digit) for digit in str(abs(number)))


def collatz_steps(number: int) -> int:
    """Count the steps until it is 1 or less: halve the number if it is even, else multiply it by 3 and add 1."""
    steps = 0
    while number > 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps


def in_base(number: int, k: int) -> str:
    """Write the number, its sign ignored, in base {k}."""
    rest, digits = abs(number), ""
    while rest:
        rest, digit = divmod(rest, k)
        digits = str(digit) + digits
    return digits or "0"


def divisors(number: int) -> list[int]:
    """Give the list of the divisors of the number, its sign ignored, from the smallest up; an empty list for 0."""
    size = abs(number)
    return [divisor for divisor in range(1, size + 1) if size % divisor == 0]


def digits_of(number: int) -> list[int]:
    """Give the list of the digits of the number, its sign ignored."""
    return [int(digit) for digit in str(abs(number))]


def count_primes_below(number: int) -> int:
    """Count the prime numbers below the number."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, number))


def clock_time(number: int) -> str:
    """Write the number as a time, taking it as minutes after midnight and going on with 00:00 after 23:59."""
    minutes = number % (24 * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
