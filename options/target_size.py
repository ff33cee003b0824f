"""The options of a target size, in place of a factor."""

from dataclasses import dataclass

from options.schema import check

_MEASURES = ("long_side", "short_side", "width", "height", "megapixels")


@dataclass(frozen=True, kw_only=True)
class TargetSize:
    """The `size` section of a test: how large results become, by exactly one measure; the proportions stay.

    No result is smaller than its input, and none larger than the network makes it, unless `beyond` says so.
    """

    long_side: int | None = None
    """Pixels of the longer side."""
    short_side: int | None = None
    """Pixels of the shorter side."""
    width: int | None = None
    """Pixels from left to right."""
    height: int | None = None
    """Pixels from top to bottom."""
    megapixels: float | None = None
    """Millions of pixels, up to the rounding of the sides."""
    beyond: bool = False
    """Also enlarge further than the network's own factor (4); it adds no more detail then."""

    def __post_init__(self) -> None:
        given = [name for name in _MEASURES if getattr(self, name) is not None]
        check(len(given) == 1, f"expected exactly one of {', '.join(_MEASURES)}, got {' and '.join(given) or 'none'}")
        measure, value = self.chosen
        check(value > 0, f"{measure} must be {'above 0' if measure == 'megapixels' else 'at least 1'}, got {value:g}")

    @property
    def chosen(self) -> tuple[str, float]:
        """The measure and its value."""
        return next((name, getattr(self, name)) for name in _MEASURES if getattr(self, name) is not None)
