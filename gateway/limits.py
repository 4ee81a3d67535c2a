"""Exact limits of a share (Clopper & Pearson, Biometrika 26, 1934), by the beta distribution.

Pure, and plain Python: the gateway has no SciPy. The limits solve equations in the regularised
incomplete beta function, which is a continued fraction (NIST Digital Library of Mathematical
Functions, 8.17.22). Counts need not be whole: what a larger sample of the same shares would tell
can be asked as well.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf, lgamma, log, log1p

CONFIDENCE = 0.95
"""How often the limits hold the share, at least."""

TAIL = (1 - CONFIDENCE) / 2
"""How often the share may lie beyond either limit."""

_PRECISION = 1e-12
_TINY = 1e-300


@lru_cache(maxsize=4096)
def exact(count: float, of: float) -> tuple[float, float]:
    """The two-sided 95 % limits of a share of which ``count`` were seen in ``of``, from 0 to 1.

    Of nothing, everything is possible: 0 and 1.
    """
    rest = of - count
    low = 0.0 if count <= 0 else beta_quantile(TAIL, count, rest + 1)
    high = 1.0 if rest <= 0 else beta_quantile(1 - TAIL, count + 1, rest)
    return low, high


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The value below which a beta variable with parameters ``a`` and ``b``, both above 0, lies
    with ``probability``.

    Newton's steps, and the middle of the interval where one would leave it.
    """
    low, high, x = 0.0, 1.0, a / (a + b)
    while high - low > _PRECISION:
        excess = incomplete_beta(x, a, b) - probability
        low, high = (low, x) if excess > 0 else (x, high)
        step = excess / max(_density(x, a, b), _TINY)
        if abs(step) < _PRECISION:
            return x - step
        x = x - step if low < x - step < high else (low + high) / 2
    return x


def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b): how probably a beta variable lies below ``x``, which is between 0 and 1."""
    if x > (a + 1) / (a + b + 2):  # there the fraction of the other tail converges fast
        return 1 - incomplete_beta(1 - x, b, a)
    return _density(x, a, b) * x * (1 - x) / a / _fraction(x, a, b)


def _density(x: float, a: float, b: float) -> float:
    if not 0 < x < 1:
        return 0.0
    norm = lgamma(a + b) - lgamma(a) - lgamma(b)
    return exp(norm + (a - 1) * log(x) + (b - 1) * log1p(-x))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)) of DLMF 8.17.22, by Lentz's method (Thompson & Barnett,
    J Comput Phys 64, 1986).
    """
    value, c, d, change, m = 1.0, 1.0, 0.0, inf, 0
    while abs(change - 1) > 1e-14:
        m += 1
        term = _term(m, x, a, b)
        d = 1 / _away_from_zero(1 + term * d)
        c = _away_from_zero(1 + term / c)
        change = c * d
        value *= change
    return value


def _term(number: int, x: float, a: float, b: float) -> float:
    """DLMF 8.17.23."""
    m, odd = divmod(number, 2)
    if odd:
        return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
