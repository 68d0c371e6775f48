"""A reader of the files of `torch.save` that executes nothing and bounds memory.

`torch.save` writes a zip archive of one pickle and of the tensors' bytes. A pickle is a program. `torch.load` with
`weights_only=True` prevents that it runs foreign code, but it may still allocate a tensor of any size, repeat one
number 10¹² times, or claim that a storage is larger than its bytes. The pickle of a checkpoint needs few opcodes and
two functions. This reader supports only these, and checks every size before it allocates memory. Memory stays within
a small multiple of the file's size.
"""

from __future__ import annotations

import os
import pickletools
import re
import sys
import zipfile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lr_lightning.errors import InputError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/:]")
_ORDERED_DICT, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_COSTLY = frozenset(["MARK", "EMPTY_LIST", "EMPTY_DICT", *_TUPLES])  # one byte of these takes up to 72 bytes of memory
_BYTES_A_COSTLY = 8  # least number of bytes of the pickle for each; a checkpoint has about 30
_COSTLY_ALLOWED = 1000  # in addition, for a small pickle
_DEEPEST = 64  # levels of nested containers
_MOST_DIMENSIONS = 8


class _Refused(Exception):  # noqa: N818 (always caught here)
    """The file is not damaged, but has content that is not allowed."""


class _Global(NamedTuple):
    """The name of a class or function in the pickle, which is never imported."""

    name: str


def load_archive(path: str | os.PathLike[str]) -> Any:
    """The tensors and plain values (str, int, float, bool, None, list, tuple, dict) of a file of `torch.save`.

    Returns:
        The saved object, with dict for OrderedDict and every tensor on the CPU. It has no cycles, fewer leaves than
        the file has bytes, and no tensor with more elements than are stored.

    Raises:
        InputError: if the file does not exist, cannot be read, is damaged, or has content that is not allowed.
    """
    name = os.fsdecode(path)
    if is_url(name):
        raise InputError(f"{name} is a URL; download the checkpoint and name the file here")
    try:
        if os.path.isdir(name):
            raise InputError(f"{name}: is a folder, not a checkpoint; choose a file such as checkpoints/last.ckpt")
        if not os.path.exists(name):
            raise InputError(f"{name}: no such checkpoint")
        if not os.path.isfile(name):  # reading a pipe or a device may never end
            raise InputError(f"{name}: is not a file, and so no checkpoint")
        with zipfile.ZipFile(name) as archive:
            return _Reader(archive, os.path.getsize(name)).read()
    except InputError:
        raise
    except _Refused as error:
        raise InputError(f"{name}: refused, because {error}") from None
    except PermissionError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from None
    except MemoryError:
        raise InputError(f"{name}: there is not enough memory to read it") from None
    except Exception as error:
        # A damaged archive or pickle can raise anything, from a KeyError to a UnicodeDecodeError.
        raise InputError(f"{name}: is not a checkpoint, or is cut short") from error


def is_url(name: str) -> bool:
    """Whether `name` is a URL and not the path of a local file."""
    return _URL.match(name) is not None


class _Reader:
    """A stack machine for the pickle of an archive.

    Args:
        archive: the archive.
        file_size: the size of the file in bytes.
    """

    def __init__(self, archive: zipfile.ZipFile, file_size: int):
        self._archive = archive
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise _Refused("it is compressed, as no checkpoint is")
        # Both sizes count, because Python's zip reader allocates the compressed size.
        if sum(max(entry.file_size, entry.compress_size) for entry in entries) > file_size:
            raise _Refused("it claims to hold more than its own size")
        if len({entry.filename for entry in entries}) < len(entries):
            raise _Refused("an entry of the archive is there twice")
        (self._root,) = (e.filename.removesuffix("data.pkl") for e in entries if e.filename.endswith("/data.pkl"))
        if f"{self._root}byteorder" in archive.namelist():
            order = archive.read(f"{self._root}byteorder").decode()
            if order != sys.byteorder:
                raise _Refused(f"it was written on a machine of another byte order ({order})")
        self._storages: dict[int, Tensor] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The object in the pickle."""
        data = self._archive.read(f"{self._root}data.pkl")
        left = _COSTLY_ALLOWED + len(data) // _BYTES_A_COSTLY
        for opcode, argument, _ in pickletools.genops(data):
            left -= opcode.name in _COSTLY
            if left < 0:
                raise _Refused("it holds little but empty lists")
            self._step(opcode.name, argument)
        (value,) = self._stack
        _check_values(value, len(data))
        return value

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if opcode in _LITERALS:
            if opcode == "LONG1" and not -(2**63) <= argument < 2**64:
                raise _Refused("it holds an integer of more than 64 bits")
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if opcode == "EMPTY_LIST" else {})
        elif opcode == "MARK":
            self._marks.append(len(stack))
        elif opcode == "TUPLE":
            stack.append(tuple(self._pop_mark()))
        elif opcode in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[opcode])))
        elif opcode in ("APPEND", "APPENDS"):
            items = self._pop(1) if opcode == "APPEND" else self._pop_mark()
            self._top(list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if opcode == "SETITEM" else self._pop_mark()
            self._set_items(items)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif opcode == "GLOBAL":
            stack.append(self._known(argument))
        elif opcode == "BINPERSID":
            stack.append(self._storage(*self._pop(1)))
        elif opcode == "REDUCE":
            stack.append(self._made(*self._pop(2)))
        elif opcode == "BUILD":  # attributes of a state_dict: its metadata
            self._pop(1)
            self._top(dict)
        elif opcode not in ("PROTO", "STOP"):
            raise _Refused(f"it holds more than tensors and plain values ({opcode})")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) - count < (self._marks[-1] if self._marks else 0):
            raise IndexError("a pickle takes more than there is")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_mark(self) -> list[Any]:
        return self._pop(len(self._stack) - mark) if (mark := self._marks.pop()) < len(self._stack) else []

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise TypeError(f"a pickle takes something for a {kind.__name__}")
        return self._stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        if not all(type(key) in (str, int, float, bool) for key in items[::2]):
            raise _Refused("a key in it is neither text nor a number")
        self._top(dict).update(zip(items[::2], items[1::2], strict=True))

    @staticmethod
    def _known(name: str) -> _Global:
        if name not in (_ORDERED_DICT, _TENSOR) and name not in _DTYPES:
            raise _Refused(f"it holds more than tensors and plain values ({name.replace(' ', '.')})")
        return _Global(name)

    def _made(self, function: Any, arguments: Any) -> Any:
        """The result of one of the two allowed functions."""
        if function == _Global(_ORDERED_DICT) and arguments == ():
            return {}
        if function != _Global(_TENSOR) or type(arguments) is not tuple:
            raise _Refused("it calls what is no function")
        return _view(*arguments[:4])

    def _storage(self, identity: Any) -> Tensor:
        """The storage `("storage", type, key, device, count)` as a tensor (count,)."""
        _, kind, key, _, count = identity
        dtype = _DTYPES[kind.name]
        number = int(key)  # so that "1" and "01" share one entry
        if number not in self._storages:
            content = bytearray(self._archive.read(f"{self._root}data/{number}"))
            # A copy in memory that torch has aligned, as the last bits of a product may depend on the alignment.
            numbers = torch.frombuffer(content, dtype=dtype).clone() if content else torch.empty(0, dtype=dtype)
            self._storages[number] = numbers
        found = self._storages[number]
        if type(count) is not int or (found.dtype, len(found)) != (dtype, count):
            raise _Refused("a tensor in it claims another size than its bytes have")
        return found


def _view(numbers: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """A tensor that is a view of a storage, each of whose elements it has at most once."""
    if type(numbers) is not Tensor or numbers.ndim != 1 or len(size) != len(stride) or len(size) > _MOST_DIMENSIONS:
        raise TypeError("a pickle takes something for a tensor")
    if not all(type(value) is int and value >= 0 for value in (offset, *size, *stride)):
        raise TypeError("a tensor's shape is not made of counts")
    shown, last = 1, offset
    for length, step in zip(size, stride, strict=True):
        shown, last = shown * length, last + (length - 1) * step
    if shown > len(numbers) or (shown and last >= len(numbers)):
        raise _Refused("a tensor in it claims more numbers than are stored")
    return numbers.as_strided(size, stride, offset) if shown else numbers.new_empty(size)


def _check_values(root: Any, most: int) -> None:
    """Refuse an object with cycles, more than `most` values in all, deep nesting, or text with lone surrogates."""
    values, seen = [(root, 0)], 1
    while values:
        value, depth = values.pop()
        children: Any = ()
        if type(value) in (list, tuple):
            children = value
        elif type(value) is dict:
            children = [*value, *value.values()]
        elif type(value) is str:
            value.encode()  # raises if there is a lone surrogate
        elif value is not None and type(value) not in (Tensor, int, float, bool):
            raise _Refused(f"it holds more than tensors and plain values ({type(value).__name__})")
        seen += len(children)
        if seen > most or depth > _DEEPEST:
            raise _Refused("its values are nested without end")
        values.extend((child, depth + 1) for child in children)
