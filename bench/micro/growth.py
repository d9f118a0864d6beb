"""How a cost grows with the size: a power law through the points. Pure."""

from collections.abc import Sequence

import msgspec
import numpy as np


class Growth(msgspec.Struct, frozen=True):
    """``factor`` · n^``exponent``. Two points leave no standard error of the exponent."""

    exponent: float
    factor: float
    standard_error: float | None

    def at(self, size: float) -> float:
        """The value of the law."""
        return float(self.factor * size**self.exponent)

    def __str__(self) -> str:
        doubt = "" if self.standard_error is None else f" ± {self.standard_error:.2f}"
        # Adding zero turns -0.00 into 0.00.
        return f"n^{round(self.exponent, 2) + 0.0:.2f}{doubt}"


def fitted(sizes: Sequence[float], values: Sequence[float]) -> Growth | None:
    """The least-squares line through the logarithms; None for fewer than two sizes.

    The standard error is that of the slope, from what the line leaves over (n - 2 degrees of
    freedom). Sizes and values are positive.
    """
    if len(set(sizes)) < 2:
        return None
    x, y = np.log(sizes), np.log(values)
    spread = float(((x - x.mean()) ** 2).sum())
    exponent = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    offset = float(y.mean() - exponent * x.mean())
    left = float(((y - offset - exponent * x) ** 2).sum())
    free = len(x) - 2
    error = float(np.sqrt(left / free / spread)) if free else None
    return Growth(exponent, float(np.exp(offset)), error)
