"""Draw the share of a class against its normal range, as SVG that needs no colour.

Pure. Lengths are in the drawing's own units, which are CSS pixels where it is shown full size.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from gateway.differential import Interval, Share
from gateway.finding import range_in_words, span
from gateway.markup import element
from gateway.ranges import NormalRange

_WIDTH = 340
_LEFT, _RIGHT = 98, 318
_TOP, _LANE = 4, 17
_TICKS = 5
_SCALES = (5, 10, 20, 50, 100)

_Lane = tuple[str, Interval, float | None]


def chart(share: Share) -> Element:
    """Draw the share and its limits over its normal range, and say what is drawn.

    The scale is the share's own, from 0 to what its limits and its normal range need.
    """
    lanes, normal = _lanes(share), share.leukocyte.normal_range
    bottom = _TOP + _LANE * len(lanes)
    most = max(normal.high if normal else 0.0, *(limits.high for _, limits, _ in lanes))
    scale = _Scale(next((top for top in _SCALES if top >= most), _SCALES[-1]))
    heights = (_TOP + _LANE * (number + 0.5) for number in range(len(lanes)))
    title, told = f"{share.name}-title", f"{share.name}-told"
    return element(
        "svg",
        element("title", f"{share.leukocyte.name} against its normal range", id=title),
        element("desc", _told(lanes, normal, scale), id=told),
        *(_normal(share.name, normal, scale, bottom) if normal else ()),
        *(part for lane, y in zip(lanes, heights, strict=True) for part in _lane(*lane, scale, y)),
        *_axis(scale, bottom),
        viewBox=f"0 0 {_WIDTH} {bottom + 24}",
        role="img",
        aria_labelledby=f"{title} {told}",
    )


class _Scale:
    """Where a share lies, from left to right."""

    def __init__(self, top: int) -> None:
        self.top = top

    def __call__(self, percent: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * percent / self.top, 1)


def _lanes(share: Share) -> list[_Lane]:
    counted = ("counted", share.limits, share.percent)
    considered = ("all considered", share.widest, None)
    if share.corrected is None:
        return [counted, considered]
    corrected = ("corrected", share.corrected.limits, share.corrected.percent)
    return [counted, corrected, considered]


def _told(lanes: list[_Lane], normal: NormalRange | None, scale: _Scale) -> str:
    drawn = [f"{label}, {span(limits)} %" for label, limits, _ in lanes]
    drawn += [f"normal, {range_in_words(normal)}"] if normal else []
    return f"On a scale from 0 to {scale.top} %: {'; '.join(drawn)}."


def _normal(name: str, normal: NormalRange, scale: _Scale, bottom: float) -> Iterator[Element]:
    left, right = scale(normal.low), scale(normal.high)
    hatch = f"{name}-normal"
    stripe = element("path", d="M0 0V5", class_="stripe")
    yield element(
        "pattern", stripe, id=hatch, width=5, height=5, patternUnits="userSpaceOnUse",
        patternTransform="rotate(45)",
    )  # fmt: skip
    yield element(
        "rect", x=left, y=_TOP, width=round(right - left, 1), height=bottom - _TOP,
        fill=f"url(#{hatch})", class_="normal",
    )  # fmt: skip


def _lane(
    label: str, limits: Interval, percent: float | None, scale: _Scale, y: float
) -> Iterator[Element]:
    left, right = scale(limits.low), scale(limits.high)
    yield element("text", label, x=_LEFT - 8, y=y + 4, text_anchor="end")
    yield element(
        "path", d=f"M{left} {y}H{right}M{left} {y - 4}v8M{right} {y - 4}v8", class_="lane"
    )
    if percent is not None:
        yield element("circle", cx=scale(percent), cy=y, r=4)


def _axis(scale: _Scale, y: float) -> Iterator[Element]:
    yield element("path", d=f"M{_LEFT} {y}H{_RIGHT}", class_="axis")
    for step in range(_TICKS + 1):
        value = scale.top * step // _TICKS
        unit = " %" if step == _TICKS else ""
        yield element("path", d=f"M{scale(value)} {y}v4", class_="axis")
        yield element("text", f"{value}{unit}", x=scale(value), y=y + 16, text_anchor="middle")
