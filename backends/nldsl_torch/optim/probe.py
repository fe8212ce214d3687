"""Whether long lists of tensors are what they were a step ago: one pass in C++ where it compiles, the same in Python where it does not."""

from __future__ import annotations

import ctypes
import functools
import operator
import platform
from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nldsl_torch.optim.native import compiled

PROBE = """
#include <cstddef>
#include <cstdint>
typedef std::ptrdiff_t nl_size;
extern "C" {
struct _object;
typedef struct _object PyObject;
nl_size PyList_Size(PyObject*);
PyObject* PyList_GetItem(PyObject*, nl_size);
PyObject* PyTuple_GetItem(PyObject*, nl_size);
int PyDict_Next(PyObject*, nl_size*, PyObject**, PyObject**);
PyObject* PyObject_GetAttr(PyObject*, PyObject*);
PyObject* PyObject_VectorcallMethod(PyObject*, PyObject* const*, size_t, PyObject*);
PyObject* PyObject_Type(PyObject*);
unsigned long long PyLong_AsUnsignedLongLong(PyObject*);
int PyObject_IsTrue(PyObject*);
void PyErr_Clear();
void Py_DecRef(PyObject*);

int nl_same(PyObject* a, PyObject* b) {
    const nl_size n = PyList_Size(a);
    if (n != PyList_Size(b)) return 0;
    for (nl_size i = 0; i < n; ++i) if (PyList_GetItem(a, i) != PyList_GetItem(b, i)) return 0;
    return 1;
}

int nl_same_state(PyObject* state, PyObject* owners, PyObject* parts, PyObject* values) {
    const nl_size n = PyList_Size(owners), m = PyList_Size(values);
    PyObject *key, *part, *name, *value;
    nl_size at = 0, i = 0, k = 0;
    while (PyDict_Next(state, &at, &key, &part)) {
        if (i == n || PyList_GetItem(owners, i) != key || PyList_GetItem(parts, i) != part) return 0;
        ++i;
        nl_size inner = 0;
        while (PyDict_Next(part, &inner, &name, &value)) {
            if (k == m || PyList_GetItem(values, k) != value) return 0;
            ++k;
        }
    }
    return i == n && k == m;
}

// torch's stable C interface: a handle is the address of a tensor, which is one pointer, and `_cdata` is that pointer
typedef int32_t (*nl_getter)(const void* tensor, void* answer);
static nl_getter nl_data_ptr, nl_numel, nl_is_contiguous, nl_dtype, nl_layout;
static int32_t nl_strided;
static nl_size nl_offset = 0;  // of the handle in the object of a tensor, in words; 0 where it is not known

void nl_find(PyObject* tensor, uint64_t handle) {
    const uint64_t* words = reinterpret_cast<const uint64_t*>(tensor);
    nl_offset = 0;
    for (nl_size i = 2; i < 5; ++i) if (words[i] == handle) { nl_offset = i; return; }
}

void nl_connect(const nl_getter* getters, int32_t strided) {
    nl_data_ptr = getters[0], nl_numel = getters[1], nl_is_contiguous = getters[2], nl_dtype = getters[3], nl_layout = getters[4];
    nl_strided = strided;
}

int nl_same_places(const uint64_t* handles, const uint64_t* places, int64_t count) {
    uint64_t pointer;
    for (int64_t i = 0; i < count; ++i) if (nl_data_ptr(handles + i, &pointer) || pointer != places[i]) return 0;
    return 1;
}

struct nl_row { uint64_t pointer; int64_t numel; int32_t dtype; };

// where a tensor's entries are; false for one that is not contiguous
static bool nl_look(PyObject* tensor, PyObject* cdata, nl_row* row) {
    uint64_t handle;
    if (nl_offset) {
        handle = reinterpret_cast<const uint64_t*>(tensor)[nl_offset];
    } else {
        PyObject* found = PyObject_GetAttr(tensor, cdata);
        if (!found) { PyErr_Clear(); return false; }
        handle = PyLong_AsUnsignedLongLong(found);
        Py_DecRef(found);
    }
    int32_t layout = -1;
    bool contiguous = false;
    return handle && !nl_layout(&handle, &layout) && layout == nl_strided && !nl_is_contiguous(&handle, &contiguous) && contiguous
        && !nl_numel(&handle, &row->numel) && !nl_dtype(&handle, &row->dtype) && !nl_data_ptr(&handle, &row->pointer);
}

int nl_same_rows(PyObject* owners, PyObject* gradients, PyObject* names, const int64_t* ends, const uint64_t* here, const uint64_t* there) {
    const nl_size n = PyList_Size(owners);
    nl_row row;
    for (nl_size i = 0; i < n; ++i) {
        PyObject *p = PyList_GetItem(owners, i), *g = PyObject_GetAttr(p, PyTuple_GetItem(names, 0));
        if (!g) { PyErr_Clear(); return 0; }
        const int64_t size = ends[i + 1] - ends[i];
        bool same = g == PyList_GetItem(gradients, i);
        same = same && nl_look(p, PyTuple_GetItem(names, 1), &row) && row.pointer == here[i] && row.numel == size;
        same = same && nl_look(g, PyTuple_GetItem(names, 1), &row) && row.pointer == there[i] && row.numel == size;
        Py_DecRef(g);
        if (!same) return 0;
    }
    return 1;
}

int nl_take_rows(PyObject* owners, PyObject* names, PyObject* type, const int64_t* ends, const uint64_t* here, uint64_t* there) {
    const nl_size n = PyList_Size(owners);
    nl_row mine, row;
    for (nl_size i = 0; i < n; ++i) {
        PyObject *p = PyList_GetItem(owners, i), *g = PyObject_GetAttr(p, PyTuple_GetItem(names, 0));
        if (!g) { PyErr_Clear(); return 0; }
        PyObject* kind = PyObject_Type(g);
        const int64_t size = ends[i + 1] - ends[i];
        bool same = kind == type;
        same = same && nl_look(p, PyTuple_GetItem(names, 1), &mine) && mine.pointer == here[i] && mine.numel == size;
        same = same && nl_look(g, PyTuple_GetItem(names, 1), &row) && row.dtype == mine.dtype && row.numel == size;
        if (same) {
            PyObject* negated = PyObject_VectorcallMethod(PyTuple_GetItem(names, 2), &g, 1, nullptr);
            same = negated && PyObject_IsTrue(negated) == 0;
            if (negated) Py_DecRef(negated); else PyErr_Clear();
        }
        Py_DecRef(kind);
        Py_DecRef(g);
        if (!same) return 0;
        there[i] = row.pointer;
    }
    return 1;
}
}
"""
NAMES = ("grad", "_cdata", "is_neg")
GRADIENT = operator.attrgetter("grad")


@functools.cache
def probe() -> Any:
    """The pass in C++, or None."""
    if platform.python_implementation() != "CPython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    found = compiled(PROBE, "list probe", python=True)
    if found is None:
        return None
    one, pointer = ctypes.py_object, ctypes.c_void_p
    found.nl_same.argtypes, found.nl_same_state.argtypes = [one] * 2, [one] * 4
    found.nl_same_places.argtypes = [pointer, pointer, ctypes.c_int64]
    found.nl_same_rows.argtypes = [one, one, one, pointer, pointer, pointer]
    found.nl_take_rows.argtypes = [one, one, one, pointer, pointer, pointer]
    try:
        shim = next(ctypes.CDLL(str(f)) for f in sorted(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*")))
        getters = [getattr(shim, f"aoti_torch_{name}") for name in ("get_data_ptr", "get_numel", "is_contiguous", "get_dtype", "get_layout")]
        found.nl_connect((pointer * 5)(*(ctypes.cast(g, pointer) for g in getters)), shim.aoti_torch_layout_strided())
    except (AttributeError, OSError, StopIteration):
        return None
    p = torch.zeros(3)
    p.grad = torch.ones(3)
    ends, here, there = array("q", [0, 3]), array("Q", [p.data_ptr()]), array("Q", [0])
    found.nl_find.argtypes, found.nl_find.restype = [one, ctypes.c_uint64], None
    for t in (torch.nn.Parameter(p), p.grad, p):
        found.nl_find(t, t._cdata)
    found.nl_take_rows([p], NAMES, Tensor, *(a.buffer_info()[0] for a in (ends, here, there)))
    return found if there[0] == p.grad.data_ptr() else None


def same(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists hold the same objects."""
    native = probe()
    if native is None:
        return len(a) == len(b) and all(map(operator.is_, a, b))
    return bool(native.nl_same(a, b))


def values_of(parts: Sequence[dict[str, Any]]) -> list[Any]:
    """The values of all dicts, one after the other."""
    return list(chain.from_iterable(map(dict.values, parts)))


def same_state(state: dict[Any, Any], owners: list[Any], parts: list[Any], values: list[Any]) -> bool:
    """Whether an optimizer's state has these keys, dicts and values, in this order."""
    native = probe()
    if native is None:
        return same(list(state), owners) and same(list(state.values()), parts) and same(values_of(parts), values)
    return bool(native.nl_same_state(state, owners, parts, values))


class Places:
    """Where tensors have their entries: `t.data = other` moves them and leaves the object. The tensors have to be kept alive.

    Views of one entry are numbers that live in an arena: no pass reads them.
    """

    def __init__(self, values: list[Any]) -> None:
        self.tensors = [v for v in values if type(v) is Tensor and v.layout is torch.strided and (v.dim() or v._base is None)]
        self.handles = array("Q", [t._cdata for t in self.tensors])
        self.pointers = array("Q", map(Tensor.data_ptr, self.tensors))

    def hold(self) -> bool:
        """Whether all are where they were."""
        native = probe()
        if native is None:
            return _at(self.tensors, self.pointers)
        return bool(native.nl_same_places(self.handles.buffer_info()[0], self.pointers.buffer_info()[0], len(self.tensors)))


def same_rows(owners: list[Tensor], gradients: list[Tensor], ends: array[int], here: array[int], there: array[int]) -> bool:
    """Whether parameters and gradients are the same tensors at the same addresses."""
    native = probe()
    if native is None:
        return same(list(map(GRADIENT, owners)), gradients) and _keep(owners, ends, here) and _at(gradients, there)
    return bool(native.nl_same_rows(owners, gradients, NAMES, *(a.buffer_info()[0] for a in (ends, here, there))))


def take_rows(owners: list[Tensor], dtype: torch.dtype, ends: array[int], here: array[int], there: array[int]) -> bool:
    """Write down where the gradients are, if they are contiguous tensors of this dtype and the parameters are where they were."""
    native = probe()
    if native is not None:
        return bool(native.nl_take_rows(owners, NAMES, Tensor, *(a.buffer_info()[0] for a in (ends, here, there))))
    gradients = list(map(GRADIENT, owners))
    if not all(type(g) is Tensor and g.layout is torch.strided and g.dtype is dtype and g.is_contiguous() and not g.is_neg() for g in gradients):
        return False
    there[:] = array("Q", map(Tensor.data_ptr, gradients))
    return _keep(owners, ends, here)


def _keep(owners: list[Tensor], ends: array[int], here: array[int]) -> bool:
    return _at(owners, here) and all(p.is_contiguous() and p.numel() == end - start for p, start, end in zip(owners, ends, ends[1:]))


def _at(tensors: list[Tensor], pointers: array[int]) -> bool:
    return array("Q", map(Tensor.data_ptr, tensors)) == pointers
