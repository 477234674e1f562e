"""Money at the edges: what a price, a quantity and a currency may be."""

from typing import Any

import pytest
from ecom_common.money import CURRENCIES, MAX_QUANTITY, MAX_TOTAL, Currency, Price, Quantity
from ecom_contracts.messages import MAX_AMOUNT
from pydantic import BaseModel, ValidationError


class Wish(BaseModel):
    price: Price = 1
    quantity: Quantity = 1
    currency: Currency = "EUR"


def test_the_smallest_and_the_largest_amounts_are_taken() -> None:
    assert Wish(price=1, quantity=1).price == 1
    assert Wish(price=MAX_TOTAL, quantity=MAX_QUANTITY).quantity == MAX_QUANTITY


@pytest.mark.parametrize("price", [0, -1, MAX_TOTAL + 1, 1.0, 9.99, "100", True, None])
def test_a_price_is_a_positive_integer_and_nothing_is_coerced_into_one(price: Any) -> None:
    with pytest.raises(ValidationError):
        Wish(price=price)


@pytest.mark.parametrize("quantity", [0, -1, MAX_QUANTITY + 1, 1.0, "2", True, None])
def test_a_quantity_is_a_positive_integer_and_nothing_is_coerced_into_one(quantity: Any) -> None:
    with pytest.raises(ValidationError):
        Wish(quantity=quantity)


@pytest.mark.parametrize(
    "code", ["eur", "EURO", "EU", "", "XXX", "XTS", "XAU", "DEM", "€", "EUR\n"]
)
def test_a_currency_is_an_active_upper_case_iso_code(code: str) -> None:
    with pytest.raises(ValidationError):
        Wish(currency=code)


def test_currencies_without_and_with_three_decimals_are_there_like_any_other() -> None:
    assert {"JPY", "KWD", "EUR", "USD", "XCG", "ZWG"} <= CURRENCIES
    assert all(len(code) == 3 and code.isupper() for code in CURRENCIES)


def test_an_order_of_the_largest_total_fits_into_a_message_and_into_sql() -> None:
    assert MAX_TOTAL <= MAX_AMOUNT
    assert MAX_TOTAL * MAX_QUANTITY > 2**63, "the product is checked as a Python integer first"
    assert MAX_TOTAL < 2**53
