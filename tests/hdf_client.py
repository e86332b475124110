"""Reads all that a server or a file shows with one client, and prints it as JSON: `hdf_client.py CLIENT WHERE`.

CLIENT is h5py (WHERE is a file), h5pyd, or silx (WHERE is an address). What different clients give in different
forms, though it means the same, is brought into one form: text as str, compounds of r and i as complex numbers.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def open_with(client: str, where: str) -> Any:
    if client == "h5py":
        import h5py

        return h5py.File(where, "r")
    if client == "silx":
        import silx.io

        return silx.io.open(where)
    import h5pyd

    return h5pyd.File(where, "r", retries=1)


def everything(node: Any) -> dict[str, Any]:
    """A group with all below it."""
    found: dict[str, Any] = {"attrs": attributes(node), "members": {}}
    for name in sorted(node):
        found["members"][name] = attempt(lambda name=name: described(node[name]))
    return found


def described(node: Any) -> dict[str, Any]:
    return everything(node) if hasattr(node, "keys") else dataset(node)


def attributes(node: Any) -> dict[str, Any]:
    return {name: attempt(lambda name=name: value_of(node.attrs[name])) for name in sorted(node.attrs)}


def dataset(node: Any) -> dict[str, Any]:
    shape = node.shape
    found: dict[str, Any] = {"attrs": attributes(node), "shape": None if shape is None else list(shape)}
    found["dtype"] = dtype_of(node.dtype)
    if shape is None:
        return found
    found["value"] = attempt(lambda: value_of(node[()]))
    for name, key in selections(shape).items():
        found[name] = attempt(lambda key=key: value_of(node[key]))
    names = node.dtype.names
    if names and shape and not is_complex(node.dtype):
        for name in names:
            found[f"field {name}"] = attempt(lambda name=name: value_of(node[name]))
        found["field slice"] = attempt(lambda: value_of(node[names[0], 1:2]))
    return found


def selections(shape: tuple[int, ...]) -> dict[str, Any]:
    """Parts to read, by name."""
    found: dict[str, Any] = {}
    if shape and min(shape) >= 2:
        found["all"] = Ellipsis
        found["step"] = (slice(0, None, 2),)
        found["tail"] = (Ellipsis, slice(1, None))
        found["one"] = (1,) * len(shape)
        found["row"] = 1
    if len(shape) >= 2 and min(shape) >= 2:
        found["steps"] = (slice(1, 2), slice(0, None, 3))
        found["mask"] = np.indices(shape).sum(axis=0) % 2 == 0
        found["list"] = (slice(0, 2), [0, 1]) if len(shape) == 2 else (0, [0, 1], slice(0, 2))
    if len(shape) == 2 and shape[0] >= 60:
        found["many"] = (list(range(60)), slice(1, 2))  # too long for an address: clients send it as a body
    if len(shape) == 1 and shape[0] >= 3:
        found["points"] = [0, 2]
    return found


def attempt(read: Any) -> Any:
    """What is read; of a failure its text, so that one of them does not hide the rest."""
    try:
        return read()
    except Exception as error:  # noqa: BLE001 (whatever a client raises is what a test compares)
        return f"{type(error).__name__}: {error}"


def is_complex(dtype: Any) -> bool:
    return dtype.names == ("r", "i")


def dtype_of(dtype: Any) -> Any:
    """A name for the type, the same for all clients."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [dtype_of(base), list(shape)]
    if is_complex(dtype):
        part = dtype["r"]
        return np.dtype(f"{part.str[0]}c{2 * part.itemsize}").str
    if dtype.names:
        return {name: dtype_of(dtype[name]) for name in dtype.names}
    return "text" if dtype.kind in "OU" else dtype.str


def value_of(value: Any) -> Any:
    """A value with its dtype, as JSON."""
    if value is None or type(value).__name__ == "Empty":
        return None
    if isinstance(value, bytes | str) and not isinstance(value, np.generic):
        return ["text", text_of(value)]
    array = np.asarray(value)
    if not array.ndim and (not array.dtype.names or is_complex(array.dtype)):
        array = array.astype(array.dtype.newbyteorder("="))  # a number has no byte order of its own
    return [dtype_of(array.dtype), items_of(array)]


def items_of(array: Any) -> Any:
    if is_complex(array.dtype):
        return np.stack([array["r"], array["i"]], axis=-1).astype(float).astype("U32").tolist()
    if array.dtype.names:
        return {name: items_of(array[name]) for name in array.dtype.names}
    kind = array.dtype.kind
    if kind == "c":
        return np.stack([array.real, array.imag], axis=-1).astype(float).astype("U32").tolist()
    if kind == "f":
        return array.astype(float).astype("U32").tolist()
    if kind in "OUS":
        return np.array([text_of(item) for item in array.reshape(-1).tolist()], object).reshape(array.shape).tolist()
    if kind == "V":
        return np.array([item.tobytes().hex() for item in array.reshape(-1)], object).reshape(array.shape).tolist()
    return array.tolist()


def text_of(item: Any) -> str:
    return item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else str(item)


def plot(node: Any) -> dict[str, Any] | None:
    """The default plot that silx finds, if it is one."""
    from silx.io import nxdata

    found = nxdata.get_default(node, validate=True)
    if found is None or not found.is_valid:
        return None
    return {
        "signal": found.signal_name,
        "shape": list(found.signal.shape),
        "sum": float(np.nansum(found.signal[()])),
        "axes": [None if axis is None else np.asarray(axis[()]).tolist() for axis in found.axes],
    }


def main(client: str, where: str) -> None:
    with open_with(client, where) as file:
        found = {"tree": everything(file), "plot": attempt(lambda: plot(file)) if client == "silx" else None}
    module = sys.modules["h5py" if client == "h5py" else "h5pyd"]
    print(json.dumps({**found, "version": module.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
