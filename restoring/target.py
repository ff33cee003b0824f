"""A size to reach in place of a factor to enlarge by: the factor for each picture, and what is said where it does not reach the size."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Target:
    """The size that results are to have, as far as a factor from 1 to `most` leads there.

    measure: what has to be `value`: a side in pixels, or the whole picture in megapixels (10^6 pixels). The others follow from the
    picture's proportions. most: the network's own factor, beyond which it adds nothing, or infinity.
    """

    measure: Literal["long_side", "short_side", "width", "height", "megapixels"]
    value: float
    most: float

    def factor(self, height: int, width: int) -> float:
        """By how much the sides of a picture of this size grow."""
        return min(self.most, max(1.0, self._wanted(height, width)))

    def note(self, height: int, width: int) -> str | None:
        """What the user should know where a picture of this size does not get the size that was asked for."""
        wanted, asked = self._wanted(height, width), f"{self.measure} {self.value:.10g}"
        if wanted > self.most:
            return f"{asked} would be x{wanted:.4g}: the network's own x{self.most:g} is taken; size.beyond: true enlarges further"
        return f"{asked} is smaller than the picture: restored at its own size (x1)" if wanted < 1 else None

    def _wanted(self, height: int, width: int) -> float:
        if self.measure == "megapixels":
            return math.sqrt(self.value * 1e6 / (height * width))
        sides = {"long_side": max(height, width), "short_side": min(height, width), "width": width, "height": height}
        return self.value / sides[self.measure]
