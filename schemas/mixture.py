"""Exact mixing: integer weights, and the periodic pattern of components that keeps every prefix within one
record.

The pattern is Tijdeman's solution of the chairman assignment problem (R. Tijdeman, "The chairman assignment
problem", Discrete Mathematics 32, 1980): with k components no prefix of any length is further than 1 -
1/(2k-2) from a component's exact share. Taking the largest deficit at each step, the obvious greedy, exceeds
one from five components on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from schemas.errors import Refused

MAX_DENOMINATOR = 1000


def integer_weights(
    weights: Sequence[float | Decimal | str], max_denominator: int = MAX_DENOMINATOR
) -> tuple[int, ...]:
    """The least integers in the proportion of `weights`; their sum D is the weights' least common
    denominator.

    weights: decimals as they were written (a float counts as its shortest decimal form, so 0.87 is 87/100),
    or fractions as text ("1/3"). Each >= 0, the sum exactly 1. Raises Refused when one is not such a number,
    when they do not sum to 1, or when D > max_denominator.
    """
    if not weights:
        raise Refused("no weights are given; name at least one component with a weight")
    shares = [_share(weight) for weight in weights]
    listed = ", ".join(str(weight) for weight in weights)
    total = sum(shares, Fraction(0))
    if total != 1:
        shown = total.numerator if total.denominator == 1 else float(total)
        raise Refused(f"the weights {listed} sum to {shown}, not 1; write them so that they sum to 1 exactly")
    denominator = math.lcm(*(share.denominator for share in shares))
    if denominator > max_denominator:
        raise Refused(
            f"the weights {listed} have the common denominator {denominator}; at most {max_denominator} is "
            "possible: round them to fewer decimals (three always fit)"
        )
    return tuple(int(share * denominator) for share in shares)


def _share(weight: float | Decimal | str) -> Fraction:
    try:
        share = Fraction(str(weight))
    except (ValueError, ZeroDivisionError):
        share = Fraction(-1)
    if share < 0:
        raise Refused(f"the weight {weight!r} is not a number from 0 to 1")
    return share


def pattern(weights: tuple[int, ...]) -> npt.NDArray[np.int16]:
    """One period of the order: which component each of D = sum(weights) consecutive records belongs to.

    weights: integers >= 0 with a positive sum, k of them positive. Returns int16 [D]; component c occurs
    weights[c] times, and repeated without end it keeps |count_c(p) - p·weights[c]/D| <= 1 - 1/(2k-2) in every
    prefix of p records.

    Tijdeman's rule, multiplied out so that only integers are compared: before record n (from 1) a component
    is eligible when n·a_c/D - count_c >= 1/(2k-2); of the eligible, the one that would first exceed the bound
    if passed over goes next, that is, the least (1 - 1/(2k-2) - (n·a_c/D - count_c)) / (a_c/D). The earlier
    in the list wins a tie.
    """
    period = sum(weights)
    if period <= 0 or min(weights) < 0:
        raise ValueError(f"weights must be integers >= 0 with a positive sum, not {weights}")
    positive = [c for c, weight in enumerate(weights) if weight]
    result = np.full(period, positive[0], dtype=np.int16)
    if len(positive) == 1:
        return result
    scale = 2 * len(positive) - 2
    count = [0] * len(weights)
    for n in range(1, period + 1):
        chosen, chosen_slack = -1, 0
        for c in positive:
            lag = scale * (n * weights[c] - count[c] * period)  # scale·D times (n·a_c/D - count_c)
            slack = (scale - 1) * period - lag  # divided by a_c, this orders the deadlines
            earlier = chosen < 0 or slack * weights[chosen] < chosen_slack * weights[c]
            if lag >= period and earlier:
                chosen, chosen_slack = c, slack
        count[chosen] += 1
        result[n - 1] = chosen
    return result
