"""Recognising payment card numbers, so that one pasted into a free field never reaches us.

A run of digits is a card number when issuer prefix, length and check digit all fit (ISO/IEC 7812). The
check digit alone would refuse one in ten EAN-13 codes, so SKUs are not looked at, and elsewhere the
prefix and length must fit as well.
"""

import re
from typing import Annotated, Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

# Digits with single blanks, dots or dashes between them, as people write and paste card numbers.
_DIGIT_RUN: Final = re.compile(r"\d(?:[ .\-]?\d){11,}")
_LENGTHS: Final = range(13, 20)

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


def contains_card_number(text: str) -> bool:
    """Whether any part of `text` reads as a payment card number."""
    return any(_run_hides_card(match.group()) for match in _DIGIT_RUN.finditer(text))


def _run_hides_card(run: str) -> bool:
    # A number can stand inside a longer run ("order 12 4111…"), so every window is looked at.
    digits = [int(char) for char in run if char.isdecimal()]
    return any(
        _is_card(digits[start : start + length])
        for length in _LENGTHS
        for start in range(len(digits) - length + 1)
    )


def _is_card(digits: list[int]) -> bool:
    return _issuer_fits(digits) and _passes_luhn(digits)


def _issuer_fits(digits: list[int]) -> bool:
    text = "".join(map(str, digits))
    return any(
        len(digits) in lengths and first <= int(text[: len(str(first))]) <= last
        for first, last, lengths in _ISSUERS
    )


def _passes_luhn(digits: list[int]) -> bool:
    total = 0
    for position, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if position % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def _without_card_number(text: str) -> str:
    if contains_card_number(text):
        raise PydanticCustomError("card_number_refused", "card numbers are not accepted here")
    return text


NoCardNumber = AfterValidator(_without_card_number)
"""Marks a text field of a request: `Annotated[str, NoCardNumber]`."""

FreeText = Annotated[str, NoCardNumber]
"""A text field that people fill in as they like."""
