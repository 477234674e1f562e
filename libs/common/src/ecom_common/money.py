"""Money: an integer count of minor units and an ISO 4217 code. No float, no Decimal, no rounding.

Nothing here divides: prices, quantities and totals only ever multiply and add.
"""

from typing import Annotated, Final

from pydantic import AfterValidator, Field

MAX_TOTAL: Final = 10**15
"""Largest total of an order in minor units; far below 2**63, so sums in SQL cannot overflow."""

MAX_QUANTITY: Final = 1_000_000
"""Largest quantity of one SKU in one order."""

# ISO 4217:2015 list one, active codes of currencies that are legal tender (funds codes, metals and
# testing codes are left out: nobody pays with them).
CURRENCIES: Final = frozenset(
    [
        "AED",
        "AFN",
        "ALL",
        "AMD",
        "AOA",
        "ARS",
        "AUD",
        "AWG",
        "AZN",
        "BAM",
        "BBD",
        "BDT",
        "BHD",
        "BIF",
        "BMD",
        "BND",
        "BOB",
        "BRL",
        "BSD",
        "BTN",
        "BWP",
        "BYN",
        "BZD",
        "CAD",
        "CDF",
        "CHF",
        "CLP",
        "CNY",
        "COP",
        "CRC",
        "CUP",
        "CVE",
        "CZK",
        "DJF",
        "DKK",
        "DOP",
        "DZD",
        "EGP",
        "ERN",
        "ETB",
        "EUR",
        "FJD",
        "FKP",
        "GBP",
        "GEL",
        "GHS",
        "GIP",
        "GMD",
        "GNF",
        "GTQ",
        "GYD",
        "HKD",
        "HNL",
        "HTG",
        "HUF",
        "IDR",
        "ILS",
        "INR",
        "IQD",
        "IRR",
        "ISK",
        "JMD",
        "JOD",
        "JPY",
        "KES",
        "KGS",
        "KHR",
        "KMF",
        "KPW",
        "KRW",
        "KWD",
        "KYD",
        "KZT",
        "LAK",
        "LBP",
        "LKR",
        "LRD",
        "LSL",
        "LYD",
        "MAD",
        "MDL",
        "MGA",
        "MKD",
        "MMK",
        "MNT",
        "MOP",
        "MRU",
        "MUR",
        "MVR",
        "MWK",
        "MXN",
        "MYR",
        "MZN",
        "NAD",
        "NGN",
        "NIO",
        "NOK",
        "NPR",
        "NZD",
        "OMR",
        "PAB",
        "PEN",
        "PGK",
        "PHP",
        "PKR",
        "PLN",
        "PYG",
        "QAR",
        "RON",
        "RSD",
        "RUB",
        "RWF",
        "SAR",
        "SBD",
        "SCR",
        "SDG",
        "SEK",
        "SGD",
        "SHP",
        "SLE",
        "SOS",
        "SRD",
        "SSP",
        "STN",
        "SVC",
        "SYP",
        "SZL",
        "THB",
        "TJS",
        "TMT",
        "TND",
        "TOP",
        "TRY",
        "TTD",
        "TWD",
        "TZS",
        "UAH",
        "UGX",
        "USD",
        "UYU",
        "UZS",
        "VED",
        "VES",
        "VND",
        "VUV",
        "WST",
        "XAF",
        "XCD",
        "XCG",
        "XOF",
        "XPF",
        "YER",
        "ZAR",
        "ZMW",
        "ZWG",
    ]
)


def _known_currency(code: str) -> str:
    if code not in CURRENCIES:
        raise ValueError("not an active ISO 4217 currency code")
    return code


Currency = Annotated[
    str,
    # Before the validator, or the pattern would be missing in the OpenAPI.
    Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code.", examples=["EUR"]),
    AfterValidator(_known_currency),
]
"""An ISO 4217 code, upper case."""

Price = Annotated[
    int, Field(ge=1, le=MAX_TOTAL, strict=True, description="Minor units.", examples=[1999])
]
"""A unit price in minor units, at least 1."""

Quantity = Annotated[int, Field(ge=1, le=MAX_QUANTITY, strict=True, examples=[2])]
"""A count of units of one SKU, 1…1,000,000."""
