"""How numbers are written on the page: three significant digits, everywhere the same."""

from __future__ import annotations

import math

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


def number(value: float | None) -> str:
    """Three significant digits; a dash for None, powers of ten below 1e-4 and from 1e6 on."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == 0:
        return "0"
    # Rounding first: 999.6 has to be written like 1000.
    mantissa, power = f"{value:.2e}".split("e")
    exponent = int(power)
    if -4 <= exponent < 6:
        text = f"{float(f'{value:.2e}'):,.{max(0, 2 - exponent)}f}"
    else:
        text = f"{mantissa} {TIMES} 10{str(exponent).translate(_SUPERSCRIPT)}"
    return text.replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share of one as a percentage; what is not all or nothing is never rounded to it."""
    if share is None or share != share:
        return NONE
    if 0.9995 <= share < 1:
        return ">99.9%"
    if 0 < share < 0.0001:
        return "<0.01%"
    if share == 1:
        return "100%"
    return f"{number(100 * share)}%"


def count(value: int) -> str:
    """A whole number, exactly."""
    return f"{value:,}"


def unit(norm: str) -> str:
    """What a distance in `norm` is measured in."""
    return f"{norm}, in the input's own units"
