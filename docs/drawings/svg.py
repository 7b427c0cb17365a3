"""A few strokes of SVG: labelled boxes, arrows and text, dark on a light sheet, legible in both colour schemes."""

from __future__ import annotations

from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent.parent / "images"

INK, FAINT, SHEET = "#263238", "#90a4ae", "#ffffff"
TEAL, ORANGE, BLUE, GREY, GREEN = "#b2dfdb", "#ffcc80", "#90caf9", "#eceff1", "#c5e1a5"
_FONT = "Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"

Point = tuple[float, float]


class Drawing:
    """Shapes in the order in which they are drawn; ``write`` makes the file.

    Args:
        width: Of the sheet, in units of about a pixel.
        height: Of the sheet.
        title: What a reader who does not see it is told.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="{_FONT}" '
            f'font-size="14" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="6" fill="{SHEET}"/>',
        ]

    def box(self, x: float, y: float, w: float, h: float, *lines: str, fill: str = TEAL, dashed: bool = False) -> None:
        """A rectangle whose top left corner is (x, y), with lines of text in its middle."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4" fill="{fill}" stroke="{INK}"{dash}/>'
        )
        for i, line in enumerate(lines):
            self.text(x + w / 2, y + h / 2 + 5 + 17 * (i - (len(lines) - 1) / 2), line)

    def circle(self, x: float, y: float, r: float, label: str = "", *, fill: str = SHEET) -> None:
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{fill}" stroke="{INK}"/>')
        if label:
            self.text(x, y + 5, label)

    def line(self, *points: Point, arrow: bool = False, dashed: bool = False, colour: str = INK) -> None:
        """A polyline; with ``arrow`` its last point is a tip."""
        places = " ".join(f"{x:g},{y:g}" for x, y in points)
        extra = ' marker-end="url(#tip)"' if arrow else ""
        extra += ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.3"{extra}/>')

    def arrow(self, *points: Point, dashed: bool = False) -> None:
        self.line(*points, arrow=True, dashed=dashed)

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "middle", size: int = 14, faint: bool = False
    ) -> None:
        """Text at a baseline; what stands in ``_{...}``, as in ``o_{1}``, is a subscript."""
        out, rest = "", text
        while "_{" in rest:
            before, rest = rest.split("_{", 1)
            low, rest = rest.split("}", 1)
            out += f'{escape(before)}<tspan dy="3" font-size="{size - 4}">{escape(low)}</tspan>'
            out += '<tspan dy="-3">&#8203;</tspan>'  # back on the baseline
        out += escape(rest)
        colour = ' fill="#546e7a"' if faint else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}"{colour}>{out}</text>')

    def write(self, folder: Path, name: str) -> Path:
        file = folder / name
        file.write_text("\n".join([*self.parts, "</svg>", ""]), encoding="utf-8")
        print(file.name)
        return file
