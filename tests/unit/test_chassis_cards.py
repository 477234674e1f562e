"""What is a card number and what only looks a little like one."""

import itertools
import random
from uuid import UUID

import pytest
from ecom_common.cards import FreeText, contains_card_number, mask_card_numbers
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

# The card schemes' own published test numbers.
VISA = "4111111111111111"
VISA_13 = "4222222222222"
VISA_19 = "4000000000000000006"
MASTERCARD = "5555555555554444"
MASTERCARD_2_SERIES = "2223003122003222"
AMERICAN_EXPRESS = "378282246310005"
DISCOVER = "6011111111111117"
DINERS = "30569309025904"
JCB = "3566002020360505"
UNION_PAY = "6200000000000005"
MAESTRO = "6759649826438453"

CARDS = [
    VISA,
    VISA_13,
    VISA_19,
    MASTERCARD,
    MASTERCARD_2_SERIES,
    AMERICAN_EXPRESS,
    DISCOVER,
    DINERS,
    JCB,
    UNION_PAY,
    MAESTRO,
]


@pytest.mark.parametrize("number", CARDS)
def test_the_test_cards_of_every_issuer_are_recognised(number: str) -> None:
    assert contains_card_number(number)


@pytest.mark.parametrize(
    "spelling",
    [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111.1111.1111.1111",
        "4111  1111  1111  1111",
        "4111–1111–1111–1111",
        "4111\u00a01111\u00a01111\u00a01111",
        "4111\n1111\n1111\n1111",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "my card is 4111111111111111, thanks",
        "pan=4111111111111111&cvv=123",
        "Visa4111111111111111",
        "order 12 4111 1111 1111 1111 03/27 123",
        "4111-1111-1111-1111-123",
        "3782 822463 10005",
        "４１１１１１１１１１１１１１１１",
        "٤١١١١١١١١١١١١١١١",
    ],
)
def test_a_card_number_is_recognised_however_it_is_written(spelling: str) -> None:
    assert contains_card_number(spelling)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no digits",
        "4111111111111112",  # the check digit is wrong
        "9999999999999995",  # passes Luhn, but no issuer has 9
        "411111111111",  # too short
        "41111111111111111111",  # too long
        "4006381330060",  # an EAN-13 with Visa's prefix, length and check digit
        "4111 / 1111 / 1111 / 1111",
        "+49 30 901820 and +49 30 115",
        "2024-11-22T23:52:09.123456Z",
        "tracking 00340434161094042557",
    ],
)
def test_other_numbers_are_no_card_numbers(text: str) -> None:
    assert not contains_card_number(text)


def test_the_ean_that_tests_order_by_is_one_that_reads_as_a_short_visa_number() -> None:
    assert _ean("400638133006") == "4006381330060"
    assert _passes_luhn("4006381330060")


@pytest.mark.parametrize("prefix", ["400638", "501234", "978020"])
def test_no_ean_is_taken_for_a_card_number(prefix: str) -> None:
    # One in ten EAN-13 codes passes the check digit of cards, too.
    eans = [_ean(f"{prefix}{number:06}") for number in range(2_000)]
    assert sum(map(_passes_luhn, eans)) > 150
    assert [ean for ean in eans if contains_card_number(f"two of {ean} are broken")] == []


def test_random_uuids_are_never_card_numbers() -> None:
    source = random.Random(7)
    hits = [
        text
        for text in (str(UUID(int=source.getrandbits(128), version=4)) for _ in range(20_000))
        if contains_card_number(text) or contains_card_number(text.upper())
    ]
    assert hits == []


def test_a_uuid_made_of_a_card_number_is_still_one() -> None:
    assert contains_card_number("41111111-1111-1111-4111-111111111111")


def test_a_card_number_beside_a_uuid_is_recognised() -> None:
    assert contains_card_number(f"6f1c6f0e-5a55-4f0a-9d0c-1d2f3e4a5b6c {VISA}")


@given(
    card=st.sampled_from(CARDS),
    before=st.text("abc /:,", max_size=8),
    after=st.text("abc /:,", max_size=8),
    separators=st.lists(st.sampled_from(["", " ", "-", ".", "\t"]), min_size=18, max_size=18),
)
def test_no_mixture_of_separators_hides_a_card_number(
    card: str, before: str, after: str, separators: list[str]
) -> None:
    written = "".join(
        digit + separator
        for digit, separator in itertools.zip_longest(
            card, separators[: len(card) - 1], fillvalue=""
        )
    )
    assert contains_card_number(before + written + after)


@given(st.text())
def test_any_text_gets_an_answer_and_its_mask_holds_no_card_number(text: str) -> None:
    contains_card_number(text)
    assert not contains_card_number(mask_card_numbers(text))


def test_a_mask_replaces_the_number_and_leaves_the_rest() -> None:
    assert mask_card_numbers("no such item: 4111 1111 1111 1111 (42)") == (
        "no such item: <card number> (42)"
    )


def test_ten_thousand_hostile_characters_take_no_time_to_speak_of() -> None:
    # Quadratic work on one of these would stop the event loop for seconds.
    for text in ("4 " * 5_000, "4-" * 5_000, "4" * 10_000, "1234567a-" * 1_100, "a" * 10_000):
        assert contains_card_number(text) in (True, False)


def test_a_free_text_field_refuses_a_card_number_without_repeating_it() -> None:
    class Note(BaseModel):
        text: FreeText

    assert Note(text="leave it at the door").text == "leave it at the door"
    with pytest.raises(ValidationError) as refused:
        Note(text=f"charge {VISA}")
    told = refused.value.errors(include_input=False)[0]
    assert told["type"] == "card_number_refused"
    assert VISA not in told["msg"]


@pytest.mark.parametrize("bits", [128, 160, 256])
@pytest.mark.parametrize("prefix", ["", "order-", "basket_", "key:"])
def test_hexadecimal_keys_are_never_mistaken(bits: int, prefix: str) -> None:
    source = random.Random(11)
    words = (f"{source.getrandbits(bits):0{bits // 4}x}" for _ in range(10_000))
    assert [word for word in words if contains_card_number(prefix + word)] == []


def test_a_card_number_with_letters_around_it_is_recognised() -> None:
    assert contains_card_number(f"cafe{VISA}")
    assert contains_card_number(f"{VISA}abcdefabcdefx")


def _ean(twelve: str) -> str:
    """The EAN-13 that begins with these digits."""
    weighted = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(twelve))
    return f"{twelve}{-weighted % 10}"


def _passes_luhn(digits: str) -> bool:
    total = 0
    for position, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if position % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0
