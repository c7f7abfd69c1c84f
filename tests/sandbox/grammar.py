"""Random snippets of the calls that lift, with names that are bound again, objects that change and odd values."""

from __future__ import annotations

import random
import re

#: What stands before each snippet, so that its names are known.
START = """a = image.rotate(180)
b = images[0].copy()
x = np.array(image)
y = np.array(image)
w = x.astype(np.float32)
v = x.astype(np.int16)
k = 1.5
m = np.array([[1, 0.2, 3], [0, 1, -2.5]])
n = m.copy()
d = ImageDraw.Draw(image)
"""

_TABLE = "i | i * 2 | 255 - i | min(255, i * 2) | int(i * 1.3) | 255 * (i / 255) ** 0.5 | (i - 128) * k | -i | i ** 3"

#: Ways to write each kind of thing; a name in braces stands for one of that kind.
_WAYS = {
    "number": "0 | 1 | 2 | 3 | -1 | 7 | 0.5 | 1.5 | -2.5 | 100 | 128 | 255 | 256 | 300 | -50 | 1e3 | 1/3 | k",
    "side": "1 | 2 | 3 | 5 | 8 | 11 | 30",
    "type": "np.uint8 | 'uint8' | np.float32 | float | int | np.int16 | np.int8 | np.int64 | np.float64",
    "sign": "+ | - | * | / | // | % | **",
    "order": "< | > | == | >=",
    "table": _TABLE,
    "holder": "image | img | a | b | image_1 | images[0] | images[1] | result",
    "image": """{holder}.rotate({number}) | {holder}.rotate(90, expand=True) | {holder}.crop((-1, 2, {side}, {side}))
        | {holder}.crop((1, 1, {holder}.width - 1, {holder}.height // 2 + 3)) | {holder}.resize(({side}, {side}))
        | {holder}.resize(({holder}.width * 2, 9), Image.LANCZOS) | {holder}.convert('L') | {holder}.copy() | {holder}
        | ImageOps.mirror({holder}) | ImageOps.autocontrast({holder}) | ImageOps.expand({holder}, {side}, fill='red')
        | ImageEnhance.Color({holder}).enhance({number}) | {holder}.filter(ImageFilter.GaussianBlur(1.5))
        | {holder}.filter(ImageFilter.Kernel((3, 3), [1] * 9, 9)) | {holder}.point(lambda i: {table})
        | {holder}.convert('L').point([{table} for i in range(256)]) | Image.fromarray({array})
        | Image.blend({holder}, {holder}, {number}) | ImageChops.difference({holder}, {holder})
        | Image.merge('RGB', {holder}.split()[::-1])
        | {holder}.getchannel({number}) | ImageOps.fit({holder}, (7, {side}))
        | {holder}.transform(({side}, 9), Image.AFFINE, (1, 0.2, {number}, 0.1, 1, 0)) | [{holder}, {holder}][1]
        | [{holder}.rotate(90 * i, expand=True) for i in range({side})][-1] | a if a.width > {side} else {holder}""",
    "pixels": "x | y | np.array(image) | np.asarray(a) | np.array(b.convert('L')) | x.copy() | x[::-1] | v",
    "array": """{pixels}[:, ::-1] | {pixels}[1:9, 2:8] | {pixels}[..., 0] | {pixels}[:, :, ::-1] | np.rot90({pixels}, 3)
        | cv2.resize({pixels}, None, fx=0.5, fy=1.7) | cv2.cvtColor({pixels}, cv2.COLOR_RGB2HSV)
        | cv2.Canny({pixels}, 9, 99)
        | cv2.threshold({pixels}, 99, 255, {side})[1] | cv2.erode({pixels}, np.ones(({side}, 2), np.uint8))
        | cv2.medianBlur({pixels}, {side}) | cv2.filter2D({pixels}, -1, np.ones((3, 3)) / 9) | {pixels}
        | cv2.LUT({pixels}, np.array([{table} for i in range(256)]).clip(0, 255).astype('uint8'))
        | cv2.add({pixels}, {number}) | cv2.subtract({pixels}, {pixels}) | cv2.convertScaleAbs({wide}, alpha={number})
        | cv2.addWeighted({pixels}, {number}, {pixels}, {number}, 5) | ({wide}).astype(np.uint8) | np.uint8({wide})
        | cv2.normalize({wide}, None, 0, 255, cv2.NORM_MINMAX) | np.clip({wide}, 0, 255).astype(np.uint8)
        | np.where({pixels} {order} {number}, {pixels}, {number}).astype(np.uint8) | np.hstack([{pixels}, {pixels}])
        | cv2.merge(cv2.split({pixels})[::-1]) | 255 - {pixels} | ~{pixels} | {pixels} {sign} {number}
        | cv2.warpAffine({pixels}, m, ({side}, 9)) | cv2.warpAffine({pixels}, n, (9, {side}))
        | cv2.copyMakeBorder({pixels}, 1, 2, 3, 4, cv2.BORDER_REFLECT)""",
    "wide": """{pixels}.astype({type}) | ({wide}) {sign} {number} | {number} {sign} ({wide}) | {pixels} {sign} ({wide})
        | w
        | np.sqrt({wide}) | np.abs({wide}) | np.log1p({wide}) | np.exp({wide}) | np.round({wide}) | v | -({wide})
        | np.clip({wide}, {number}, 300) | (w - w.min()) / (w.max() - w.min()) * 255 | ({pixels} - x.mean()) * 1.5
        | cv2.Sobel({pixels}, cv2.CV_64F, 1, 0, ksize={side}) | cv2.Laplacian({wide}, cv2.CV_16S) | ({wide}) {order} 7
        | np.maximum({wide}, {number}) | np.power({wide}, {number}) | np.where({wide} > 1, {wide}, {number})""",
    "statement": """a = {image} | b = {image} | image = {image} | img = {image} | result = {image} | x = {array}
        | y = {array} | result = {array} | w = {wide} | v = {wide} | d = ImageDraw.Draw({holder})
        | d.line((0, 0, 9, 9), fill={number}, width=2) | draw.ellipse((1, 2, 8, 9), outline='red')
        | {holder}.thumbnail(({side}, {side})) | m[1, 2] = {number} | m[0, 0] += {number} | n = np.asarray(m)
        | n[0, 0] = 2
        | m = m.astype(np.float32) | k = {number} | k *= {number} | print(k, a.size) | print(f'{{k:.2f}}', [k, (k, 1)])
        | print(m[0, 2] + {number}, a is None, k > 1)""",
    "end": """result = np.clip(w, 0, 255).astype(np.uint8) | result = w.astype(np.uint8) | result = v.astype(np.uint8)
        | result = np.clip(v * 2 + w, 0, 255).astype(np.uint8) | result = x | result = a | result = b | pass
        | result = cv2.warpAffine(x, m, (9, 9)) | result = cv2.warpAffine(y, n, (9, 9))""",
}
_CHOICES = {kind: [way.strip() for way in re.split(r"\s\|\s", ways)] for kind, ways in _WAYS.items()}


def snippet(generator: random.Random) -> str:
    """A snippet of one to four statements, some of them in a loop or under a condition."""
    lines = []
    for _ in range(generator.randint(1, 4)):
        statement = _written("statement", generator, 0)
        kind = generator.random()
        if kind < 0.1:
            statement = f"for i in range({generator.randint(0, 3)}):\n    {statement}"
        elif kind < 0.15:
            statement = f"if a.width > {generator.randint(5, 20)}:\n    {statement}\nelse:\n    k = 3"
        lines.append(statement)
    return START + "\n".join([*lines, _written("end", generator, 0)])


def _written(kind: str, generator: random.Random, depth: int) -> str:
    choices = [way for way in _CHOICES[kind] if depth < 6 or "{" not in way] or ["x"]
    way = generator.choice(choices).replace("{{", "\x01").replace("}}", "\x02")
    text = re.sub(r"{(\w+)}", lambda found: _written(found[1], generator, depth + 1), way)
    return text.replace("\x01", "{").replace("\x02", "}")
