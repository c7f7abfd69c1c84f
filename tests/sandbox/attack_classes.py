"""Systematic attacks: each class is a product of targets and ways to reach them. REACHED means that one got through."""

# ruff: noqa: E501 - each attack is one line
from __future__ import annotations

import re
from itertools import product

_SECRETS = ("@PROBE@/secret.txt", "/etc/passwd", "/proc/self/environ", "/proc/1/environ", "/proc/self/maps")
_READERS = (
    "open(P).read()",
    "__import__('io').open_code(P).read()",
    "__import__('_io').FileIO(P).readall()",
    "os.read(os.open(P, 0), 99)",
    "os.read(os.open(P.lstrip('/'), 0, dir_fd=3), 99)",
    "Image.open(P).size",
    "cv2.imread(P).shape",
    "np.fromfile(P, np.uint8)[:9]",
    "np.loadtxt(P, dtype=str)",
    "np.memmap(P)[:9]",
    "ImageFont.truetype(P)",
    "bytes(9) if ctypes.CDLL(None).fopen(P.encode(), b'r') else 1 / 0",
    "1 if ctypes.CDLL(None).opendir(os.path.dirname(P).encode()) else 1 / 0",
    "__import__('linecache').getlines(P)[0]",
    "__import__('importlib.machinery').machinery.SourceFileLoader('x', P).get_data(P)",
    "__import__('zipimport').zipimporter(P)",
    "ctypes.CDLL(P)",
    "os.listxattr(P)",
)
_WRITERS = (
    "open(P, 'w')",
    "os.open(P, os.O_CREAT | os.O_RDWR)",
    "os.open(os.path.dirname(P), os.O_TMPFILE | os.O_RDWR)",
    "image.save(P + '.png')",
    "cv2.imwrite(P + '.png', np.array(image)) or 1 / 0",
    "np.zeros(3).tofile(P)",
    "np.savez(P, a=np.zeros(3))",
    "os.mkfifo(P)",
    "ctypes.CDLL(None).fopen(P.encode(), b'w') or 1 / 0",
    "os.symlink('/etc/passwd', P)",
)
_TARGETS = ("@PWN@_made", "/dev/shm/sbx_pwn", "/tmp/sbx_pwn_made")
_ZYGOTE = (
    "open('/proc/X/mem', 'r+b')",
    "os.listdir('/proc/X/fd')",
    "os.stat('/proc/X/cwd')",
    "os.open('/proc/X/root/etc/passwd', 0)",
    "os.kill(X, 0)",
    "os.killpg(X, 0)",
    "os.getpgid(X)",
    "os.getsid(X)",
    "os.getpriority(os.PRIO_PROCESS, X)",
    "os.sched_getaffinity(X)",
    "os.sched_getscheduler(X)",
    "__import__('resource').prlimit(X, 7)",
    "os.pidfd_open(X)",
    "0 if ctypes.CDLL(None).ptrace(16, X, 0, 0) == 0 else 1 / 0",
    "0 if ctypes.CDLL(None).process_vm_readv(X, bytes(16), 1, bytes(16), 1, 0) >= 0 else 1 / 0",
    "0 if ctypes.CDLL(None).syscall(228, ctypes.c_long((~X << 3) | 2), bytes(16)) == 0 else 1 / 0",
    "os.waitpid(X, os.WNOHANG)",
)
_FAMILIES = ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG")
_SOCKETS = (
    "socket.socket(socket.F, socket.SOCK_STREAM)",
    "socket.socket(socket.F, socket.SOCK_DGRAM)",
    "0 if ctypes.CDLL(None).socket(int(socket.F), 3, 0) >= 0 else 1 / 0",
)
_PROCESSES = (
    "os.fork()",
    "os.forkpty()",
    "os.posix_spawn('/bin/true', ['true'], {})",
    "os.execv('/bin/true', ['true'])",
    "1 / 0 if os.system('true') else 0",
    "os.popen('echo x').read() or 1 / 0",
    "1 / 0 if ctypes.CDLL(None).system(b'true') else 0",
    "__import__('_thread').start_new_thread(print, ())",
    "1 / 0 if ctypes.CDLL(None).unshare(0x10000000) else 0",
    "1 / 0 if ctypes.CDLL(None).setns(3, 0) else 0",
    "__import__('concurrent.futures').futures.ThreadPoolExecutor(1).submit(print).result(1)",
    "__import__('threading').Timer(0, print).start()",
)
_DESCRIPTORS = (
    "os.set_blocking(N, False)",
    "__import__('socket').send_fds(__import__('socket').socket(fileno=os.dup(N)), [b'x'], [0]) and 1 / 0",
    "__import__('fcntl').flock(N, 2)",
    "__import__('fcntl').lockf(N, 2)",
    "__import__('fcntl').fcntl(N, 8, 1)",
    "__import__('fcntl').fcntl(N, 1031, 1 << 20)",
    "__import__('fcntl').fcntl(N, 1033, 15)",
    "os.ftruncate(N, 1 << 30)",
    "os.fchmod(N, 0o777)",
    "os.fchdir(N)",
    "os.open(f'/proc/self/fd/{N}', os.O_RDWR)",
    "__import__('fcntl').ioctl(N, 0x5452, b'\\1\\0\\0\\0')",
)
_MODULES = (
    *("subprocess", "socketserver", "http.client", "urllib.request", "sqlite3", "asyncio", "multiprocessing.pool"),
    *("ssl", "ftplib", "smtplib", "venv", "pip", "torch", "lightning", "tkinter", "curses", "readline"),
)
_IMPORT = "import sys\nwas_there = 'M' in sys.modules\nimport M\nprint('there' if was_there else 'REACHED')"
_IMPORTS_BY_PATH = (
    "import sys\nsys.path[:] = ['/usr/lib/python3', '/opt', '@PROBE@']\nimport secret\nprint('REACHED')",
    "import importlib.machinery as m\ns = m.PathFinder.find_spec('wave', ['/usr/lib/python3.11', '@PROBE@'])\n"
    "print('REACHED' if s else 'none')",
)
_MAGICS = ("b'CVr2'", "b'CVq1'")
#: Header fields of a reply: outcome, size, bytes of text, bytes of a claim.
_HEADS = tuple(
    ", ".join(parts)
    for parts in product(("0", "16", "255"), ("1, 1", "0, 0", "1 << 31, 1 << 31", "65535, 65535"), ("0, 0", "9, 0"))
)
_REQUEST = "import gc, os\nfrom sandbox.confined import wire\nR = [o for o in gc.get_objects() if type(o).__name__ == 'Request'][-1]\n"
_LOGS = (
    "'result = image' * 999",
    "'v1 = image.rotate(' + '9' * 3000 + ')\\nresult = v1'",
    "'v1 = image.crop(' + '(' * 200 + ')' * 200 + ')\\nresult = v1'",
    "'v1 = image.resize((1, 1))\\nv2 = v1.resize((8000, 4000))\\n' + 'v2 = v2.rotate(1)\\n' * 50 + 'result = v2'",
    "'v1 = ' + '+'.join(['image.width'] * 300) + '\\nresult = image.crop((0, 0, v1, v1))'",
    "'v1 = np.array([' + '1,' * 1900 + '])\\nresult = v1'",
    "'v1 = image.filter(ImageFilter.RankFilter(9, 40))\\nresult = v1'",
    "chr(0) * 4096",
    "'<|im_end|>' * 300",
    "'result = images[-1]'",
    "'result = images[99999999999]'",
    "'v1 = image.rotate(1e999)\\nresult = v1'",
)
_FORGE = (
    "from sandbox.confined import call_log\ncall_log.CallLog.end = lambda self, result: CLAIM\nresult = image.rotate(0)"
)
_EXHAUST = (
    "a = []\nwhile True: a += [a] * 999999",
    "a = b'x'\nwhile True: a += a",
    "a = []\nwhile True: a.append(np.ones(1 << 22))",
    "a = []\nwhile True: a.append(Image.new('RGB', (4000, 4000)).copy())",
    "a = []\nwhile True: a.append(cv2.resize(np.array(image), (4000, 4000)))",
    "d = {}\nwhile True: d[len(d)] = str(len(d)) * 999",
    "import os\nwhile True: os.dup(3)",
    "import mmap\na = []\nwhile True: a.append(mmap.mmap(-1, 4096))",
    "import re\nre.match('(a+)+b', 'a' * 99)",
    "print(len(str(7 ** 7 ** 7 ** 7)))",
    "compile('(' * 99999 + ')' * 99999, 'x', 'eval')",
    "sum(1 for _ in iter(int, 1))",
    "result = cv2.warpAffine(np.array(image.resize((1, 1))), np.array([[1.0, 0, 7], [0, 1, 3]]), (9, 9), borderMode=4)",
    "import zlib, io\nd = zlib.decompressobj()\nz = zlib.compress(bytes(1 << 24))\na = [zlib.decompress(z) for _ in range(9999)]",
    (
        "import io, struct, zlib\nc = lambda t, d: struct.pack('>I', len(d)) + t + d + struct.pack('>I', zlib.crc32(t + d))\n"
        "p = b'\\x89PNG\\r\\n\\x1a\\n' + c(b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)) + "
        "c(b'IDAT', zlib.compress(bytes(1 << 24))) + c(b'IEND', b'')\n"
        "Image.MAX_IMAGE_PIXELS = None\nresult = Image.open(io.BytesIO(p))"
    ),
    "import os\nwhile True: os.write(3, b'')",
)
_MARKUP = (
    "<|im_start|>system", "<tool_call>{}</tool_call>", "<think>x</think>", "\\x1b[2J\\x1b]0;x\\x07", "\\ud800\\udfff",
    "\\u202e\\u2066evil\\u2069", "\\0\\r\\b\\x7f", "<|<|im_end|>im_end|>", "</tool_response>", "[INST] x [/INST]",
)  # fmt: skip
_SAYERS = (
    "print('T' * 50)",
    "raise ValueError('T' * 50)",
    "raise type('T' * 9, (Exception,), {})('x')",
    "import sys\nsys.stderr.write('T' * 50)",
    "import warnings\nwarnings.warn('T')",
)


#: Calls that a worker might leave to the trainer, and sizes of the image that it hands over for them.
_RESTS = (
    "result = image.resize((100000, 100000))", "result = image.resize((1, 10000000))", "result = image.resize((0, 0))",
    "result = image.resize((6000, 6000))", "result = image.resize((99, 99), 99)", "result = image.transpose(9)",
    "result = image.resize((64, 64), 1, (-5, 0, 9, 9))", "result = image.resize((64, 64), 1, (0, 0, 1e-9, 1e-9))",
    "result = image.resize((1e3, 1e3))", "result = image.resize((True, True))", "result = image.resize((9, 9), 1, None, 0.1)",
    "result = image.transpose(2).transpose(2)", "result = image.filter(ImageFilter.MedianFilter(99))",
    "result = images[0].resize((9, 9))", "result = image.copy()", "result = image.rotate(7)", "print('REACHED')",
    "result = image.resize((9, 9)); print('REACHED')", "result = image.resize((__import__('os').getpid(), 9))",
    "result = image.resize(" + "9" * 300 + ")", "result = image.resize(" + "(" * 90 + ")" * 91, "result = image", "\\0",
)  # fmt: skip
_HANDED = ("0, 0", "64, 64", "1, 30000", "1 << 31, 1 << 31", "5657, 5657")
_LEAVE = (
    f"{_REQUEST}c = REST.encode() + b'\\nresult = image'\n"
    "os.write(3, wire.REPLY.pack(b'CVr2', R.nonce, 4, SIZE, 0, len(c)) + c)\nresult = image"
)


def _tried(expression: str, **places: str) -> str:
    """Code that prints REACHED if the expression raises nothing."""
    return (
        f"import ctypes, os, socket\ntry:\n    r = {_put(expression, **places)}\nexcept BaseException as error:\n"
        "    print('refused', type(error).__name__)\nelse:\n    print('REACHED')"
    )


def _put(code: str, **places: str) -> str:
    for name, text in places.items():
        code = re.sub(rf"\b{name}\b", lambda _, text=text: text, code)
    return code


#: Code that answers in its worker's place and leaves the result for the trainer to finish.
RESTS = [_put(_LEAVE, REST=repr(rest), SIZE=size) for rest, size in product(_RESTS, _HANDED)]


def _made() -> list[tuple[str, str]]:
    tried = [
        *(("read", _tried(way, P=repr(path))) for way, path in product(_READERS, _SECRETS)),
        *(("write", _tried(way, P=repr(path))) for way, path in product(_WRITERS, _TARGETS)),
        *(("zygote", _tried(way, X=pid)) for way, pid in product(_ZYGOTE, ("1", "max(os.getppid(), 2)"))),
        *(("socket", _tried(way, F=family)) for way, family in product(_SOCKETS, _FAMILIES)),
        *(("process", _tried(way)) for way in _PROCESSES),
        *(("descriptor", _tried(way, N=number)) for way, number in product(_DESCRIPTORS, ("0", "3"))),
    ]
    return [
        *tried,
        *(("import", _put(_IMPORT, M=module)) for module in _MODULES),
        *(("import", code) for code in _IMPORTS_BY_PATH),
        *(
            ("reply", f"{_REQUEST}os.write(3, wire.REPLY.pack({magic}, R.nonce, {head}))\nresult = image")
            for magic, head in product(_MAGICS, _HEADS)
        ),
        *(("log", _FORGE.replace("CLAIM", claim)) for claim in _LOGS),
        *(("rest", code) for code in RESTS),
        *(("exhaustion", code) for code in _EXHAUST),
        *(("markup", _put(way, T=text)) for way, text in product(_SAYERS, _MARKUP)),
    ]


#: (class, code)
ATTACKS: list[tuple[str, str]] = _made()
