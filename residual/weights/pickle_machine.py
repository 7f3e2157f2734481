"""A stack machine for the few instructions of pickles that write tensors, arrays, numbers and text.

Nothing is imported and nothing is called: a name is compared with KNOWN, what its call would have made is made by
`_reduce`, for arguments of just the form that PyTorch and NumPy write.  Every other instruction, name and form is
refused, however harmless.
"""

import io
import pickletools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from residual.weights.files import MAX_FILE, BadWeights
from residual.weights.pickle_values import MAX_DEPTH, STORAGES, LateArray, Name, Storage, Type, View, array_of

MAX_INSTRUCTIONS = 1_000_000
MAX_MEMO = 100_000
MAX_INTEGER = 1 << 127
MAX_LINE = 1 << 16  # bytes of an instruction's argument in text
MAX_TEXT = 1 << 16  # bytes of Python 2's strings that may be text; longer ones are numbers

OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
LENGTHS = {"BINSTRING": "<i", "BINBYTES": "<I", "BINBYTES8": "<Q", "BYTEARRAY8": "<Q"}  # before their argument
ARRAY, ARRAY_OF_BUFFER, SCALAR = (  # NumPy 2 moved them
    {f"numpy.core.{name}", f"numpy._core.{name}"}
    for name in ("multiarray._reconstruct", "numeric._frombuffer", "multiarray.scalar")
)
TYPES = {code: np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")}
KNOWN = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor",  # PyTorch 0.3
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *STORAGES,
    *ARRAY,
    *ARRAY_OF_BUFFER,
    *SCALAR,
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # bytes, in a pickle for Python 2,
    "__builtin__.bytes",  # and no bytes
}


@dataclass
class Machine:
    """One run of the stack machine; `storages` are those the pickle mentions."""

    storages: dict[str, Storage] = field(default_factory=dict)
    encoded: int = 0  # bytes made from text
    stack: list[object] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)  # heights of the stack
    memo: dict[int, object] = field(default_factory=dict)

    def run(self, stream: "io.BytesIO | Stream") -> object:
        """Run the pickle that begins here, and leave the stream behind it."""
        for number, (name, argument, position) in enumerate(instructions(stream)):
            if number >= MAX_INSTRUCTIONS:
                raise BadWeights(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            if name == "STOP":
                break
            try:
                self.step(name, argument)
            except BadWeights as problem:
                raise BadWeights(f"{problem} (byte {position} of its pickle)") from None
        if len(self.stack) != 1 or self.marks:
            raise BadWeights("its pickle ends with values left over")
        return self.stack[0]

    def step(self, name: str, argument: object) -> None:
        """One instruction."""
        push = self.stack.append
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                if len(self.marks) >= MAX_DEPTH:
                    raise BadWeights(f"its pickle nests deeper than {MAX_DEPTH}")
                self.marks.append(len(self.stack))
            case "BINPUT" | "LONG_BINPUT":
                assert isinstance(argument, int)
                self.remember(argument)
            case "MEMOIZE":
                self.remember(len(self.memo))
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise BadWeights("its pickle recalls what it never stored")
                push(self.memo[argument])
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT"
                | "BINSTRING" | "SHORT_BINSTRING" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8"
                | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8"
            ):  # fmt: skip
                if isinstance(argument, int) and abs(argument) > MAX_INTEGER:
                    raise BadWeights("it holds an integer of more than 127 bits")
                push(argument)
            case "NONE":
                push(None)
            case "NEWTRUE":
                push(True)
            case "NEWFALSE":
                push(False)
            case "EMPTY_TUPLE":
                push(())
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self.pop(int(name[-1]))))
            case "TUPLE":
                push(tuple(self.pop_mark()))
            case "APPEND":
                self.extend(self.pop(1))
            case "APPENDS":
                self.extend(self.pop_mark())
            case "SETITEM":
                self.set_items(self.pop(2))
            case "SETITEMS":
                self.set_items(self.pop_mark())
            case "GLOBAL":
                push(_known(str(argument).replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, attribute = self.pop(2)
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise BadWeights("its pickle asks for a name that is no text")
                push(_known(f"{module}.{attribute}"))
            case "REDUCE":
                function, arguments = self.pop(2)
                push(self.reduce(function, arguments))
            case "BUILD":
                (state,) = self.pop(1)
                self.build(self.stack[-1] if self.stack else None, state)
            case "BINPERSID":
                push(self.storage(self.pop(1)[0]))
            case _:
                raise BadWeights(
                    f"its pickle uses {name}, which torch.save never needs for tensors; "
                    "save a state_dict() of plain tensors, or a .safetensors file"
                )

    def remember(self, slot: int) -> None:
        if len(self.memo) >= MAX_MEMO:
            raise BadWeights(f"its pickle remembers more than {MAX_MEMO:,} values")
        self.memo[slot] = self.pop(1)[0]
        self.stack.append(self.memo[slot])

    def pop(self, count: int) -> list[object]:
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - count < floor:
            raise BadWeights("its pickle takes more from the stack than is there")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def pop_mark(self) -> list[object]:
        if not self.marks:
            raise BadWeights("its pickle closes what it never opened")
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def extend(self, values: list[object]) -> None:
        if not self.stack or type(self.stack[-1]) is not list:
            raise BadWeights("its pickle appends to something that is no list")
        self.stack[-1].extend(values)

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1] if self.stack else None
        if type(target) is not dict or len(items) % 2:
            raise BadWeights("its pickle sets items of something that is no dict")
        _fill(target, zip(items[::2], items[1::2], strict=True))

    def reduce(self, function: object, arguments: object) -> object:
        """What calling `function` would have made, for those we know, without calling anything."""
        match function, arguments:
            case Name("_codecs.encode"), (str(text), "latin1"):
                return self.encode(text)
            case Name(name), (Type(dtype), (str() | bytes()) as numbers) if name in SCALAR:
                return array_of(self.encode(numbers), (), dtype, "C").item()
        return _reduce(function, arguments)

    def build(self, target: object, state: object) -> None:
        """Give an object its state.  That of a dict, such as a state dict's `_metadata`, is dropped."""
        match target, state:
            case dict(), dict():
                pass
            case Type(dtype), (3 | 4, ("<" | ">" | "|" | "=") as order, None, None, None, -1, -1, 0, *_):
                target.dtype = dtype.newbyteorder(order)
            case LateArray(None), (1, tuple(shape), Type(dtype), bool() | 0 | 1 as columns, (str() | bytes()) as data):
                target.array = array_of(self.encode(data), shape, dtype, "F" if columns else "C")
            case _:
                raise BadWeights("its pickle sets attributes of something that has none, or others than it has")

    def encode(self, text: str | bytes) -> bytes:
        """Bytes, which Python 2 and pickles for it write as text."""
        if isinstance(text, bytes):
            return text
        self.encoded += len(text)
        if self.encoded > MAX_FILE:
            raise BadWeights(f"its pickle makes more than {MAX_FILE:,} bytes out of text")
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            raise BadWeights("its pickle takes for bytes a text with other characters") from None

    def storage(self, identity: object) -> Storage:
        """A storage from its persistent id: ("storage", type, key, device, count), in old files a view."""
        match identity:
            case ("storage", Name(name), str(key), str(), int(count), *view):
                pass
            case _:
                raise BadWeights("its pickle names a storage in a form torch.save does not use")
        if name not in STORAGES:
            raise BadWeights(f"its pickle takes {name} for the type of a storage")
        if view not in ([], [None]):
            raise BadWeights(
                "it holds a storage that is part of another; load and save it again with PyTorch 1.6 or later"
            )
        if not 0 <= count <= MAX_FILE:
            raise BadWeights(f"its pickle speaks of a storage of {count:,} numbers, more than any file we read")
        storage = Storage(key, STORAGES[name], count)
        if self.storages.setdefault(key, storage) != storage:
            raise BadWeights(f"its pickle describes storage {key!r} twice, differently")
        return storage


# --- what the names stand for ---------------------------------------------------------------------------------


def _known(name: str) -> Name:
    if name in KNOWN:
        return Name(name)
    raise BadWeights(
        f"it asks for {name[:200]!r}, and only tensors, numbers and text are read; if you trust the file, "
        "load it where it was made and save its state_dict() of plain tensors"
    )


def _reduce(function: object, arguments: object) -> object:
    """What a call would have made, where that takes no more than its arguments."""
    match function, arguments:
        case Name("numpy.dtype"), (str(code), bool() | 0 | 1, bool() | 0 | 1) if code in TYPES:
            return Type(TYPES[code])
        case Name(name), (Name("numpy.ndarray"), (0,), "b" | b"b") if name in ARRAY:
            return LateArray()
        case Name(name), (bytes(numbers), Type(dtype), tuple(shape), ("C" | "F") as order) if name in ARRAY_OF_BUFFER:
            return LateArray(array_of(numbers, shape, dtype, order))
        case Name("__builtin__.bytes"), ():
            return b""
        case Name("collections.OrderedDict"), ():
            return {}
        case Name("collections.OrderedDict"), (list(pairs),):  # Python 2
            made: dict[object, object] = {}
            _fill(made, (tuple(pair) if isinstance(pair, list | tuple) else () for pair in pairs))
            return made
        case Name("torch.Size"), (tuple(size),):
            return size
        case Name("torch._utils._rebuild_parameter"), (View() as view, bool(), dict(hooks)) if not hooks:
            return view
        case Name("torch._utils._rebuild_tensor"), (Storage() as storage, int(offset), tuple(size), tuple(stride)):
            return View(storage, offset, size, stride)
        case (
            Name("torch._utils._rebuild_tensor_v2"),
            (Storage() as storage, int(offset), tuple(size), tuple(stride), bool(), dict(hooks), *metadata),
        ) if not hooks and metadata in ([], [None], [{}]):
            return View(storage, offset, size, stride)
    what = function.name if isinstance(function, Name) else "something that is no function"
    raise BadWeights(f"its pickle calls {what} with arguments torch.save does not write")


def _fill(target: dict[object, object], pairs: Iterable[tuple[object, ...]]) -> None:
    for pair in pairs:
        if len(pair) != 2 or type(pair[0]) not in (str, int):
            raise BadWeights("it holds a dict whose keys are not all text or whole numbers")
        if pair[0] in target:
            raise BadWeights(f"it holds a dict with the key {str(pair[0])[:200]!r} twice")
        target[pair[0]] = pair[1]


# --- the instructions ---------------------------------------------------------------------------------------


class Stream:
    """A file to read instructions from, that is never asked for more than it has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def tell(self) -> int:
        return self.file.tell()

    def read(self, count: int) -> bytes:
        return self.file.read(max(0, min(count, self.size - self.file.tell())))

    def readline(self) -> bytes:
        return self.file.readline(MAX_LINE)


def instructions(stream: "io.BytesIO | Stream") -> Iterator[tuple[str, object, int]]:
    """Name, argument and position of every instruction; `pickletools` parses, and runs nothing.

    What may be long, we read ourselves: as the bytes it is, without a copy.
    """
    start = stream.tell()
    while True:
        position = stream.tell() - start
        code = stream.read(1)
        opcode = OPCODES.get(code.decode("latin-1"))
        if opcode is None:
            raise BadWeights(f"its pickle is damaged or cut short: {code!r} at byte {position} is no instruction")
        argument: object = None
        try:
            if opcode.name in LENGTHS:
                layout = LENGTHS[opcode.name]
                (length,) = struct.unpack(layout, stream.read(struct.calcsize(layout)))
                content = stream.read(max(length, 0))
                if length != len(content):
                    raise ValueError(f"{length:,} bytes should follow, and do not")
                text = opcode.name == "BINSTRING" and length <= MAX_TEXT
                argument = content.decode("latin-1") if text else content
            elif opcode.arg is not None:
                argument = opcode.arg.reader(stream)  # type: ignore[arg-type]
        except (ValueError, OverflowError, struct.error) as problem:
            raise BadWeights(f"its pickle is damaged or cut short: {str(problem)[:200]}") from None
        yield opcode.name, argument, position
