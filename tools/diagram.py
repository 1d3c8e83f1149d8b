"""Draw the architecture of hierarchical JEPA as nbs/images/hjepa.svg: plain text, no library.

    python tools/diagram.py            # write it
    python tools/diagram.py --check    # exit 1 if the committed file is not what would be written

The figure has a background of its own, so that it can be read on a dark page as well as on a light one."""
import argparse
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
TARGET = root/'nbs'/'images'/'hjepa.svg'
SIZE = 960, 430
INK, GREY, PAPER, EDGE = '#22303c', '#7b8794', '#ffffff', '#d5dbe1'
BLUE, ORANGE = ('#dbe9f8', '#2f6fb0'), ('#fdebd3', '#c8741a')   # fill, line: with gradient, and without
DARK, LIGHT, HIDDEN = (38, 84, 124), (203, 220, 236), '#e9ecef'
SHIRT = ['.##.##.', '#######', '#######', '.#####.', '.#####.', '.#####.', '.#####.']
SEEN = ['.x...x.', '...x...', 'x....x.', '..x....', '....x.x', '.x.....', '...x.x.']   # 11 of 49 patches
N = 7


def text(x: float, y: float, words: str, size: int = 13, colour: str = INK, anchor: str = 'middle',
         bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ''
    style = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}'
    return f'<text x="{x:g}" y="{y:g}" {style}>{words}</text>'


def rect(x: float, y: float, w: float, h: float, fill: str, line: str, width: float = 1.5,
         corner: float = 0) -> str:
    corners = f' rx="{corner:g}"' if corner else ''
    return (f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}"{corners} fill="{fill}" '
            f'stroke="{line}" stroke-width="{width:g}"/>')


def box(x: float, y: float, w: float, h: float, colours: tuple[str, str], *lines: str) -> str:
    "A rounded box with a bold first line and lines of small text under it."
    fill, line = colours
    parts = [rect(x, y, w, h, fill, line, corner=9)]
    top = y + h / 2 + 5 - 8.5 * (len(lines) - 1)
    for i, words in enumerate(lines):
        parts.append(text(x + w / 2, top + 17 * i, words, 12 if i else 14, INK, bold=not i))
    return '\n'.join(parts)


def arrow(*points: tuple[float, float], colour: str = INK, dashed: bool = False, head: str = 'head',
          both: bool = False) -> str:
    "A line through points, with a head at its end, or at both."
    d = 'M' + ' L'.join(f'{x:g} {y:g}' for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ''
    style = f'fill="none" stroke="{colour}" stroke-width="1.6"{dash}'
    start = f' marker-start="url(#{head})"' if both else ''
    return f'<path d="{d}" {style}{start} marker-end="url(#{head})"/>'


def head(name: str, colour: str) -> str:
    "The head of arrows."
    box = ('viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"')
    return f'<marker id="{name}" {box}><path d="M0 0 L10 5 L0 10 z" fill="{colour}"/></marker>'


def shade(value: float) -> str:
    "A colour between light (0) and dark (1)."
    return '#' + ''.join(f'{round(a + (b - a) * value):02x}' for a, b in zip(LIGHT, DARK, strict=True))


def grid(x: float, y: float, side: float, values: list[list[float | None]], line: str = PAPER) -> str:
    "Cells of a grid, each in the shade of its value; None: hidden, or nothing to predict."
    n, parts = len(values), []
    step = side / n
    for r, row in enumerate(values):
        for c, value in enumerate(row):
            fill = HIDDEN if value is None else shade(value)
            parts.append(rect(round(x + c * step, 1), round(y + r * step, 1), step, step, fill, line, 1.2))
    return '\n'.join(parts)


def image() -> list[list[float]]: return [[float(c == '#') for c in row] for row in SHIRT]


def hidden(r: int, c: int) -> bool: return SEEN[r][c] == '.'


def level(l: int) -> list[list[float | None]]:
    "Means over the hidden patches of each cell of 2^l × 2^l patches; None where a cell has none."
    n, shirt, out = -(-N // 2 ** l), image(), []
    for r in range(n):
        rows = range(r * 2 ** l, min(N, (r + 1) * 2 ** l))
        out.append([])
        for c in range(n):
            columns = range(c * 2 ** l, min(N, (c + 1) * 2 ** l))
            found = [shirt[i][j] for i in rows for j in columns if hidden(i, j)]
            out[-1].append(sum(found) / len(found) if found else None)
    return out


def levels(x: float, y: float, side: float, gap: float, line: str) -> str:
    "The three levels side by side, framed."
    parts = []
    for l in range(3):
        left = x + l * (side + gap)
        parts.append(grid(left, y, side, level(l)))
        parts.append(rect(left, y, side, side, 'none', line))
    return '\n'.join(parts)


def draw() -> str:
    "The whole figure."
    w, h = SIZE
    seen = [[None if hidden(r, c) else v for c, v in enumerate(row)] for r, row in enumerate(image())]
    top, low, side = 62, 272, 98      # rows of the two branches, side of an image
    mid, under = top + side / 2, low + side / 2
    heads = ''.join(head(name, colour) for name, colour in [('head', INK), ('warm', ORANGE[1])])
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        'role="img" '
        f'font-family="{font}">',
        '<title>Hierarchical JEPA</title>',
        '<desc>The context encoder sees the visible patches; the predictor answers for the hidden ones; a '
        'slowly moving copy of the encoder sees the whole image. Predictions and targets are averaged over '
        'cells of three sizes and compared.</desc>',
        f'<defs>{heads}</defs>',
        rect(0.5, 0.5, w - 1, h - 1, PAPER, EDGE, 1, 12),
        # the images
        grid(26, top, side, seen),
        text(75, top - 12, 'what is seen'),
        grid(26, low, side, image()),
        text(75, low + side + 20, 'the whole image'),
        # the two encoders and the predictor
        arrow((130, mid), (164, mid)),
        box(168, top + 12, 158, 74, BLUE, 'context encoder', 'a ViT on the visible', 'patches alone'),
        arrow((328, mid), (368, mid)),
        box(372, top + 12, 158, 74, BLUE, 'predictor', 'a mask token for', 'each hidden patch'),
        arrow((130, under), (164, under)),
        box(168, low + 12, 158, 74, ORANGE, 'target encoder', 'a moving average of', 'the context encoder'),
        arrow((247, top + 90), (247, low + 8), colour=ORANGE[1], dashed=True, head='warm'),
        text(258, (top + low + side) / 2 - 4, 'EMA of the weights,', 12, ORANGE[1], 'start'),
        text(258, (top + low + side) / 2 + 12, 'no gradient', 12, ORANGE[1], 'start'),
        # levels
        arrow((532, mid), (606, mid)),
        text(569, mid - 22, 'mean over', 12, GREY),
        text(569, mid - 8, 'cells, head', 12, GREY),
        levels(612, top, side, 16, BLUE[1]),
        text(775, top - 30, 'predictions', 14, bold=True),
        arrow((328, under), (606, under)),
        text(467, under - 9, 'mean over the same cells, LayerNorm', 12, GREY),
        levels(612, low, side, 16, ORANGE[1]),
        text(775, low + side + 44, 'targets', 14, bold=True)
    ]
    for l, weight in enumerate(('1', '½', '¼')):
        x = 612 + l * (side + 16) + side / 2
        parts.append(arrow((x, top + side + 8), (x, low - 8), both=True))
        parts.append(rect(x - 47, 200, 94, 34, PAPER, EDGE, 1, 6))
        parts.append(text(x, 222, f'{weight} × smooth L1', 12))
        parts.append(text(x, top - 10, f'level {l}', 12, GREY))
        name = 'patches' if l == 0 else f'cells of {2 ** l}×{2 ** l}'
        parts.append(text(x, low + side + 20, name, 12, GREY))
    return '\n'.join([*parts, '</svg>', ''])


def main():
    args = argparse.ArgumentParser(description='Write nbs/images/hjepa.svg.')
    args.add_argument('--check', action='store_true',
                      help='write nothing; exit 1 if the file is out of date')
    name = TARGET.relative_to(root)
    if args.parse_args().check:
        if not TARGET.exists() or TARGET.read_text(encoding='utf-8') != draw():
            sys.exit(f'{name} is not what tools/diagram.py draws: run python tools/diagram.py')
        print(f'{name} is up to date')
    else:
        TARGET.write_text(draw(), encoding='utf-8', newline='\n')
        print(f'wrote {name}')


if __name__ == '__main__': main()
