"""Recognising payment card numbers, so that one pasted into a free field never reaches us.

A run of digits is a card number when issuer prefix, length and check digit all fit (ISO/IEC 7812). The
check digit alone would refuse one in ten EAN-13 codes, so SKUs are not looked at, and elsewhere the
prefix and length must fit as well. UUIDs and hashes are no card numbers either, with dashes or without: one
in two to three thousand random ones has digits that would pass, and they are what keys are made of.
"""

import re
from typing import Annotated, Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

# Digits with at most two blanks, dots or dashes between them, as people write and paste card numbers.
_SEPARATORS: Final = r"[\s.\-\u2010-\u2015\u00b7]{0,2}"
_DIGIT_RUN: Final = re.compile(rf"\d(?:{_SEPARATORS}\d){{12,}}")
_DIGIT_GROUP: Final = re.compile(r"\d+")
_LENGTHS: Final = range(13, 20)

# UUIDs, and hexadecimal words as long. A letter is asked for, because nobody writes a card number with one; of
# random UUIDs all but one in three million have one. It is looked for no farther than a UUID is long, or a long
# text of short words would take quadratic time.
_RANDOM_ID: Final = re.compile(
    r"(?<![0-9a-z])(?=[0-9-]{0,35}[a-f])"
    r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32,})(?![0-9a-z])",
    re.IGNORECASE,
)

# (first prefix, last prefix, lengths) of the issuers' ranges in use.
_ISSUERS: Final[tuple[tuple[int, int, tuple[int, ...]], ...]] = (
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),  # Mastercard
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),  # American Express
    (6011, 6011, (16, 17, 18, 19)),  # Discover
    (644, 649, (16, 17, 18, 19)),  # Discover
    (65, 65, (16, 17, 18, 19)),  # Discover
    (300, 305, (14, 15, 16, 17, 18, 19)),  # Diners Club
    (36, 36, (14, 15, 16, 17, 18, 19)),  # Diners Club
    (38, 39, (14, 15, 16, 17, 18, 19)),  # Diners Club
    (3528, 3589, (16, 17, 18, 19)),  # JCB
    (62, 62, (16, 17, 18, 19)),  # UnionPay
    (50, 50, (13, 14, 15, 16, 17, 18, 19)),  # Maestro
    (56, 58, (13, 14, 15, 16, 17, 18, 19)),  # Maestro
    (67, 67, (13, 14, 15, 16, 17, 18, 19)),  # Maestro
)

# A digit, doubled, and the digits of that added up.
_DOUBLED: Final = dict(zip("0123456789", (0, 2, 4, 6, 8, 1, 3, 5, 7, 9), strict=True))


def contains_card_number(text: str) -> bool:
    """Whether any part of `text` reads as a payment card number."""
    return any(
        _run_hides_card(match.group()) for match in _DIGIT_RUN.finditer(_RANDOM_ID.sub("/", text))
    )


def mask_card_numbers(text: str) -> str:
    """`text` with every run of digits that hides a card number replaced; for what ends in a log."""
    return _DIGIT_RUN.sub(
        lambda match: "<card number>" if _run_hides_card(match.group()) else match.group(), text
    )


def _run_hides_card(run: str) -> bool:
    # A number can stand beside others ("order 12 4111 …"), so every sequence of whole groups is looked
    # at; but not every window of digits, or a third of all long reference numbers would hide a card.
    # Through int(), because other scripts have digits of their own.
    groups = ["".join(str(int(char)) for char in group) for group in _DIGIT_GROUP.findall(run)]
    return any(
        _begins_with_card(groups[start : start + _LENGTHS[-1]]) for start in range(len(groups))
    )


def _begins_with_card(groups: list[str]) -> bool:
    digits = ""
    for group in groups:
        digits += group
        if len(digits) > _LENGTHS[-1]:
            return False
        if _is_card(digits) and not _is_ean(group):
            return True
    return False


def _is_card(digits: str) -> bool:
    return len(digits) in _LENGTHS and _passes_luhn(digits) and _issuer_fits(digits)


def _issuer_fits(digits: str) -> bool:
    return any(
        len(digits) in lengths and first <= int(digits[: len(str(first))]) <= last
        for first, last, lengths in _ISSUERS
    )


def _passes_luhn(digits: str) -> bool:
    backwards = digits[::-1]
    total = sum(map(int, backwards[::2])) + sum(map(_DOUBLED.__getitem__, backwards[1::2]))
    return total % 10 == 0


def _is_ean(digits: str) -> bool:
    # The prefixes of Germany and Britain are Visa's and Maestro's, whose 13 digits went out of use long ago.
    odd, even = sum(map(int, digits[::2])), sum(map(int, digits[1::2]))
    return len(digits) == 13 and (odd + 3 * even) % 10 == 0


def _without_card_number(text: str) -> str:
    if contains_card_number(text):
        raise PydanticCustomError("card_number_refused", "card numbers are not accepted here")
    return text


NoCardNumber = AfterValidator(_without_card_number)
"""Marks a text field of a request: `Annotated[str, NoCardNumber]`."""

FreeText = Annotated[str, NoCardNumber]
"""A text field that people fill in as they like."""
