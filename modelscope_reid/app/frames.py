"""A picture on the page, and the box that a visitor draws on it.

In: an RGB image; in the browser, two clicks or one stroke of the mouse. Out: HTML, and a box (x1, y1, x2, y2) in parts
of width and height. Knows nothing of what is searched for.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from PIL import Image

from modelscope_reid.app.cards import hint, jpeg_uri, preview
from modelscope_reid.errors import InputError
from modelscope_reid.images import crop_boxes

Box: TypeAlias = tuple[float, float, float, float]

BOX_SCRIPT = """
let start = null, pressed = null;
const frame = () => element.querySelector('.reid-frame');
const spot = (event) => {
  const edge = frame().querySelector('img').getBoundingClientRect();
  const part = (at, from, size) => Math.min(1, Math.max(0, (at - from) / size));
  return [part(event.clientX, edge.left, edge.width), part(event.clientY, edge.top, edge.height)];
};
const between = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
const large = (box) => box[2] - box[0] > 0.01 && box[3] - box[1] > 0.01;
const draw = (box) => {
  const drawn = frame().querySelector('.reid-box');
  drawn.hidden = false;
  ['left', 'top'].forEach((side, i) => { drawn.style[side] = 100 * box[i] + '%'; });
  ['width', 'height'].forEach((side, i) => { drawn.style[side] = 100 * (box[i + 2] - box[i]) + '%'; });
};
const inside = (event) => frame() && frame().contains(event.target);
const finish = (box) => { start = pressed = null; draw(box); trigger('select', {box: box}); };
element.addEventListener('pointerdown', (event) => {
  pressed = inside(event) && event.pointerType === 'mouse' ? spot(event) : null;
});
element.addEventListener('pointermove', (event) => {
  const from = pressed || start;
  if (!inside(event) || !from || !frame().dataset.waiting && !pressed) return;
  if (large(between(from, spot(event)))) draw(between(from, spot(event)));
});
element.addEventListener('pointerup', (event) => {
  if (!pressed || !inside(event)) return;
  const box = between(pressed, spot(event));
  pressed = null;
  if (large(box)) { element.dataset.stroke = '1'; finish(box); }
});
element.addEventListener('click', (event) => {
  if (element.dataset.stroke) { delete element.dataset.stroke; return; }
  if (!inside(event)) return;
  const box = between(start || [0, 0], spot(event));
  if (start && frame().dataset.waiting && large(box)) return finish(box);
  start = spot(event);
  frame().dataset.waiting = '1';
  draw([start[0], start[1], start[0], start[1]]);
});
"""
"""What the browser does: `element`, `trigger` are given by gradio.HTML."""


def frame_card(image: Image.Image, box: Box | None = None) -> str:
    """Return an image to draw on, with the box drawn so far."""
    x1, y1, x2, y2 = box or (0.0, 0.0, 0.0, 0.0)
    sides = zip(("left", "top", "width", "height"), (x1, y1, x2 - x1, y2 - y1), strict=True)
    style = ";".join(f"{side}:{100 * part:.2f}%" for side, part in sides)
    drawn = f'<div class="reid-box" style="{style}"{"" if box else " hidden"}></div>'
    words = hint("search.boxed") if box else hint("search.frame")
    return (
        f'<div class="reid-frame"><img alt="" draggable="false" src="{jpeg_uri(preview(image))}">{drawn}</div>'
        f'<div class="reid-if-not-waiting">{words}</div><div class="reid-if-waiting">{hint("search.corner")}</div>'
    )


def box_of(value: Any) -> Box:
    """Return a box that a browser sent.

    Raises:
        InputError: not four numbers 0..1 of which the second two are larger.
    """
    numbers = value if isinstance(value, (list, tuple)) and len(value) == 4 else ()
    if not numbers or not all(isinstance(part, (int, float)) and math.isfinite(part) for part in numbers):
        raise InputError("the box is not four numbers; draw it again.")
    x1, y1, x2, y2 = (min(max(float(part), 0.0), 1.0) for part in numbers)
    if x2 <= x1 or y2 <= y1:
        raise InputError("the box is empty; draw it again.")
    return x1, y1, x2, y2


def cut(image: Image.Image, box: Box | None) -> Image.Image:
    """Return what is in the box, or the whole image where there is none."""
    if box is None:
        return image
    width, height = image.size
    return crop_boxes(image, [[box[0] * width, box[1] * height, box[2] * width, box[3] * height]])[0]
