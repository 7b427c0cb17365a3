"""Draw the network: python docs/drawings/network.py writes block.svg, hourglass.svg and stack.svg to docs/images."""

import sys
from pathlib import Path

from svg import BLUE, GREEN, GREY, IMAGES, ORANGE, TEAL, Drawing


def block(folder: Path) -> None:
    """The soft-gated block, top to bottom."""
    d = Drawing(460, 500, "The soft-gated block: three convolutions in a chain, concatenated, plus the gated input.")
    d.text(230, 26, "x: N channels")
    d.line((230, 34), (230, 52))
    d.line((60, 52), (230, 52))
    d.arrow((230, 52), (230, 74))
    for i, (name, out) in enumerate((("o_{1}", "N/2"), ("o_{2}", "N/4"), ("o_{3}", "N/4"))):
        top = 74 + 92 * i
        d.box(140, top, 180, 44, "bn, relu,", f"conv 3×3 → {out}")
        d.text(238, top + 65, name, anchor="start")
        if i < 2:
            d.arrow((230, top + 44), (230, top + 92))
            d.line((230, top + 72), (345 + 30 * (1 - i), top + 72))
            d.arrow((345 + 30 * (1 - i), top + 72), (345 + 30 * (1 - i), 350))
        else:
            d.arrow((230, top + 44), (230, 350))
    d.box(150, 350, 240, 34, "concat → N channels", fill=GREEN)
    d.arrow((270, 384), (270, 425))
    d.circle(270, 438, 13, "+")
    d.arrow((270, 451), (270, 478))
    d.text(280, 474, "y: N channels", anchor="start")
    # the gated copy of the input
    d.line((60, 52), (60, 200))
    d.box(20, 200, 80, 62, "gate: × α", "a scale a", "channel", fill=ORANGE)
    d.line((60, 262), (60, 438))
    d.arrow((60, 438), (257, 438))
    d.text(158, 430, "α · x")
    d.write(folder, "block.svg")


def hourglass(folder: Path, depth: int = 4) -> None:
    """One hourglass: going down left, back up right, a skip branch at each level."""
    step = 96
    d = Drawing(520, 150 + step * depth, f"An hourglass of {depth} levels with a skip branch and a merge at each.")
    left, right = 20, 350
    d.text(left + 60, 24, "x: N × 64 × 64")
    d.line((left + 60, 30), (left + 60, 52))
    for level in range(depth):
        top, size = 52 + step * level, 64 >> level
        d.box(left + 130, top, 130, 32, "block (skip)")
        d.box(right, top, 150, 32, "merge, block", fill=GREEN)
        d.line((left + 60, top), (left + 60, top + 16))
        d.arrow((left + 60, top + 16), (left + 130, top + 16))
        d.arrow((left + 260, top + 16), (right, top + 16))
        d.text(left + 304, top + 10, f"{size} px", size=12, faint=True)
        d.arrow((left + 60, top + 16), (left + 60, top + 48))
        d.box(left, top + 48, 120, 40, "max-pool 2,", "block", fill=TEAL)
        d.line((left + 60, top + 88), (left + 60, top + step))
        d.arrow((right + 75, top + 48), (right + 75, top + 32))
        d.box(right, top + 48, 150, 32, "nearest × 2", fill=GREY)
        d.line((right + 75, top + step), (right + 75, top + 80))
    bottom = 52 + step * depth
    d.line((left + 60, bottom), (left + 60, bottom + 16))
    d.arrow((left + 60, bottom + 16), (left + 130, bottom + 16))
    d.box(left + 130, bottom, 130, 32, "block (inner)")
    d.text(left + 304, bottom + 10, f"{64 >> depth} px", size=12, faint=True)
    d.line((left + 260, bottom + 16), (right + 75, bottom + 16))
    d.arrow((right + 75, bottom + 16), (right + 75, bottom - step + 80))
    d.arrow((right + 75, 52), (right + 75, 30))
    d.text(right + 75, 24, "N × 64 × 64")
    d.text(260, bottom + 62, "merge = concat: 2N channels go into a block without skip path", size=13, faint=True)
    d.write(folder, "hourglass.svg")


def stack(folder: Path) -> None:
    """Stem, two hourglasses with their heads, and what one hands to the next."""
    d = Drawing(460, 690, "Stem, then hourglass, neck and head, repeated; each stack but the last joins into the next.")
    d.text(150, 24, "image: 3 × 256 × 256")
    d.arrow((150, 30), (150, 46))
    d.box(40, 46, 220, 58, "conv 7×7 stride 2, bn, relu,", "max-pool 2, block", fill=BLUE)
    d.text(272, 80, "stem", anchor="start", faint=True)
    top = 104
    for i in (1, 2):
        d.arrow((150, top), (150, top + 34))
        d.text(160, top + 22, f"x_{{{i}}}: N × 64 × 64", anchor="start")
        d.box(40, top + 34, 220, 36, f"hourglass {i}")
        d.arrow((150, top + 70), (150, top + 92))
        d.box(40, top + 92, 220, 36, "conv 1×1, bn, relu", fill=GREY)
        d.text(272, top + 115, "neck", anchor="start", faint=True)
        d.arrow((150, top + 128), (150, top + 172))
        d.text(140, top + 155, f"f_{{{i}}}", anchor="end")
        d.box(40, top + 172, 220, 36, "conv 1×1 → K", fill=GREY)
        d.text(272, top + 195, "head", anchor="start", faint=True)
        if i == 1:
            join = top + 290
            d.arrow((150, top + 208), (150, top + 236))
            d.text(140, top + 227, "h_{1}", anchor="end")
            d.box(90, top + 236, 120, 32, "conv 1×1 → N", fill=ORANGE)
            d.arrow((150, top + 268), (150, join - 11))
            d.line((150, top + 150), (355, top + 150))
            d.arrow((355, top + 150), (355, top + 236))
            d.box(300, top + 236, 120, 32, "conv 1×1 → N", fill=ORANGE)
            d.line((355, top + 268), (355, join))
            d.arrow((355, join), (163, join))
            d.line((150, top + 14), (22, top + 14))
            d.line((22, top + 14), (22, join))
            d.arrow((22, join), (137, join))
            d.circle(150, join, 13, "+")
            d.text(245, join - 8, "join", faint=True)
            d.arrow((150, top + 221), (232, top + 221), dashed=True)
            d.text(236, top + 226, "loss, in training", anchor="start", faint=True)
            top = join + 13
    end = top + 208
    d.arrow((150, end), (150, end + 30))
    d.text(160, end + 25, "h_{2}: K × 64 × 64, to loss or heatmaps", anchor="start")
    d.write(folder, "stack.svg")


def main(folder: Path) -> None:
    block(folder)
    hourglass(folder)
    stack(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
