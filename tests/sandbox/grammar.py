"""Random snippets of the calls that lift, with names that are rebound, objects that change and odd values."""

from __future__ import annotations

import random
import re

#: Code before each snippet, which defines its names.
START = """a = image.rotate(180)
b = images[0].copy()
x = np.array(image)
y = np.array(image.convert('L'))
k = 1.5
m = np.array([[1, 0.2, 3], [0, 1, -2.5]])
d = ImageDraw.Draw(image)
e = ImageEnhance.Color(image)
"""

#: Ways to write each kind of code; a name in braces stands for code of that kind.
_WAYS = {
    "number": """0 | 1 | 2 | 3 | -1 | 7 | 0.5 | 1.5 | -2.5 | 100 | 128 | 255 | 256 | 300 | -50 | 1e3 | 1/3 | k | 90
        | 180 | {number} {sign} {number} | True | None | 'a'
        | Image.BICUBIC | cv2.INTER_CUBIC | Image.Transpose.ROTATE_90""",
    "side": """1 | 2 | 3 | 5 | 8 | 11 | 30 | 0 | {holder}.width // 2 | min({holder}.size) | len(images)
        | round({number})""",
    "sign": "+ | - | * | / | // | % | ** | |",
    "holder": "image | img | a | b | image_1 | images[0] | images[-1] | result",
    "box": """(-1, 2, {side}, {side}) | (1, 1, {holder}.width - 1, {holder}.height // 2 + 3) | [0, 1.5, 7.5, {side}]
        | (0, 0, *{holder}.size) | (5, 5, 2, 9)""",
    "image": """{holder}.rotate({number}) | {holder}.rotate(90, expand=True) | {holder}.crop({box})
        | {holder}.resize(({side}, {side})) | {holder}.resize([{holder}.width * 2, 9], Image.LANCZOS) | {holder}
        | {holder}.convert('L') | {holder}.copy() | {holder}.transpose({number}) | {holder}.crop({box}).resize((9, 8))
        | ImageOps.mirror({holder}) | ImageOps.autocontrast({holder}) | ImageOps.expand({holder}, {side}, fill='red')
        | ImageEnhance.Color({holder}).enhance({number}) | {holder}.filter(ImageFilter.GaussianBlur(1.5))
        | {holder}.filter(ImageFilter.Kernel((3, 3), [1] * 9, 9)) | {holder}.filter(ImageFilter.RankFilter(3, {side}))
        | {holder}.filter(ImageFilter.Kernel((3, 3), [1, 2, 3, 4, 5, 6, 7, 8, {number}])) | Image.fromarray({array})
        | {holder}.getchannel({number}) | ImageOps.fit({holder}, (7, {side})) | ImageOps.pad({holder}, (7, {side}))
        | {holder}.transform(({side}, 9), Image.AFFINE, (1, 0.2, {number}, 0.1, 1, 0)) | [{holder}, {holder}][1]
        | {holder}.point(lambda i: i * 2) | e.enhance({number}) | {holder}.rotate({number}, fillcolor=(1, 2, 3))
        | {holder}.rotate({number}, Image.BILINEAR, center=({number}, 2)) | ImageOps.posterize({holder}, {side})""",
    "pixels": "x | y | np.array(image) | np.asarray(a) | np.array(b.convert('L')) | x.copy() | np.array(d)",
    "array": """{pixels}[:, ::-1] | {pixels}[1:9, 2:8] | {pixels}[:, :, ::-1] | np.rot90({pixels}, 3)
        | {pixels}[-5:, :{side}]
        | cv2.resize({pixels}, None, fx=0.5, fy=1.7) | cv2.resize({pixels}, ({side}, 9), interpolation={number})
        | cv2.cvtColor({pixels}, cv2.COLOR_RGB2HSV) | cv2.Canny({pixels}, 9, 99) | np.rot90({pixels}, {number})
        | cv2.threshold({pixels}, 99, 255, {side})[1] | cv2.erode({pixels}, None, iterations={side}) | {pixels}
        | cv2.medianBlur({pixels}, {side}) | cv2.filter2D({pixels}, -1, np.array([[0, 1, 0], [1, {number}, 1]]))
        | cv2.convertScaleAbs({pixels}, alpha={number}) | cv2.rotate({pixels}, {number}) | cv2.flip({pixels}, {number})
        | cv2.warpAffine({pixels}, m, ({side}, 9)) | cv2.copyMakeBorder({pixels}, 1, 2, 3, 4, cv2.BORDER_REFLECT)
        | cv2.GaussianBlur({pixels}, ({side}, 3), 0) | cv2.blur({pixels}, ({side}, 2)) | cv2.bitwise_not({pixels})
        | cv2.createCLAHE({number}).apply({pixels}) | np.hstack([{pixels}, {pixels}]) | np.fliplr({pixels})
        | {pixels} + {number} | cv2.equalizeHist({pixels}) | np.array({pixels}, dtype=np.uint8)""",
    "statement": """a = {image} | b = {image} | image = {image} | img = {image} | result = {image} | x = {array}
        | y = {array} | result = {array} | d = ImageDraw.Draw({holder}) | e = ImageEnhance.Contrast({holder})
        | d.line((0, 0, 9, 9), fill={number}, width=2) | draw.ellipse((1, 2, 8, 9), outline='red')
        | d.rectangle([(1, 2), (8, {side})], fill=(1, 2, 3)) | {holder}.thumbnail(({side}, {side})) | k = {number}
        | k *= {number} | print(k, a.size) | print(f'{{k:.2f}}', [k, (k, 1)]) | print({number}, x.shape, image.mode)
        | print(f'{{{number}}} of {{b.width}}') | a, b = b, a | h, w = x.shape[:2] | k = {side}""",
    "end": """result = x | result = y | result = a | result = b | pass | result = image | result = {image}
        | result = {array}""",
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
