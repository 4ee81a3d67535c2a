"""Elements of HTML and SVG from Python: whatever text is put into them stays text."""

from __future__ import annotations

from xml.etree.ElementTree import Element, tostring


def element(tag: str, /, *inside: str | Element, **attributes: object) -> Element:
    """Make one of texts and other elements; ``class_`` is `class`, ``stroke_width`` has a dash."""
    named = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    made = Element(tag, named)
    last: Element | None = None
    for part in inside:
        if isinstance(part, Element):
            made.append(last := part)
        elif last is None:
            made.text = (made.text or "") + part
        else:
            last.tail = (last.tail or "") + part
    return made


def document(root: Element) -> str:
    """Write a page that begins with ``root``, `<html>`."""
    return f"<!doctype html>\n{tostring(root, 'unicode', method='html')}\n"
