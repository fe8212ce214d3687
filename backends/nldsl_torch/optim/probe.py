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
PyObject* PyObject_CallFunctionObjArgs(PyObject*, ...);
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

// Hints to the memory: what is looked at some turns later is fetched now; no answer depends on them. A compiler drops calls of
// functions that are nothing but hints: they are inlined.
#define NL_HINT __attribute__((always_inline)) static inline
enum { NL_FAR = 36, NL_MIDDLE = 24, NL_NEAR = 12, NL_KEYS = 4 };
static nl_size nl_offset = 0;  // of the handle in the object of a tensor, in words; 0 where it is not known

static inline const char* const* nl_words(const void* object) { return static_cast<const char* const*>(object); }
NL_HINT void nl_soon(const void* at) { __builtin_prefetch(at); }

NL_HINT void nl_soon_tensor(const char* handle) { nl_soon(handle + 24), nl_soon(handle + 96), nl_soon(handle + 168); }

// what the first words of a tensor point to: its storage, its gradient, its count of changes
NL_HINT void nl_soon_inside(const char* handle) {
    for (int i = 2; i < 6 && handle; ++i) nl_soon(nl_words(handle)[i] + 8), nl_soon(nl_words(handle)[i] + 72);
}

NL_HINT void nl_soon_listed(PyObject* const* tensors, nl_size i, nl_size n) {
    if (i + NL_FAR < n) nl_soon(tensors[i + NL_FAR]);
    if (nl_offset && i + NL_MIDDLE < n) nl_soon_tensor(nl_words(tensors[i + NL_MIDDLE])[nl_offset]);
    if (nl_offset && i + NL_NEAR < n) nl_soon_inside(nl_words(tensors[i + NL_NEAR])[nl_offset]);
}

int nl_same_state(PyObject* state, PyObject* const* owners, PyObject* const* parts, nl_size n, PyObject* const* values, nl_size m) {
    PyObject *key, *part, *name, *value;
    nl_size at = 0, i = 0, k = 0;
    while (PyDict_Next(state, &at, &key, &part)) {
        if (i == n || owners[i] != key || parts[i] != part) return 0;
        if (i + NL_FAR < n) nl_soon(parts[i + NL_FAR]);
        if (i + NL_NEAR < n)
            for (int line = 0; line < 3; ++line) nl_soon(nl_words(parts[i + NL_NEAR])[NL_KEYS] + 64 * line);
        ++i;
        nl_size inner = 0;
        while (PyDict_Next(part, &inner, &name, &value)) {
            if (k == m || values[k] != value) return 0;
            ++k;
        }
    }
    return i == n && k == m;
}

// torch's stable C interface: a handle is the address of a tensor, which is one pointer, and `_cdata` is that pointer
typedef int32_t (*nl_getter)(const void* tensor, void* answer);
static nl_getter nl_data_ptr, nl_numel, nl_is_contiguous, nl_dtype, nl_layout;
static int32_t nl_strided;

void nl_find(PyObject* tensor, uint64_t handle) {
    const uint64_t* words = reinterpret_cast<const uint64_t*>(tensor);
    nl_offset = 0;
    for (nl_size i = 2; i < 5; ++i) if (words[i] == handle) { nl_offset = i; return; }
}

void nl_connect(const nl_getter* getters, int32_t strided) {
    nl_data_ptr = getters[0], nl_numel = getters[1], nl_is_contiguous = getters[2], nl_dtype = getters[3], nl_layout = getters[4];
    nl_strided = strided;
}

int nl_same_places(const char* const* handles, const uint64_t* places, nl_size count) {
    uint64_t pointer;
    for (nl_size i = 0; i < count; ++i) {
        if (i + NL_FAR < count) nl_soon(handles[i + NL_FAR] + 24), nl_soon(handles[i + NL_FAR] + 168);
        if (i + NL_NEAR < count) nl_soon(nl_words(handles[i + NL_NEAR])[2] + 16);
        if (nl_data_ptr(handles + i, &pointer) || pointer != places[i]) return 0;
    }
    return 1;
}

int nl_changed(PyObject* increment, PyObject* chunks) {
    const nl_size n = PyList_Size(chunks);
    for (nl_size k = 0; k < n; ++k) {
        PyObject* chunk = PyList_GetItem(chunks, k);
        const nl_size m = nl_offset ? PyList_Size(chunk) : 0;
        for (nl_size i = 0; i < m; ++i) nl_soon_tensor(nl_words(PyList_GetItem(chunk, i))[nl_offset]);
        for (nl_size i = 0; i < m; ++i) nl_soon_inside(nl_words(PyList_GetItem(chunk, i))[nl_offset]);
        PyObject* made = PyObject_CallFunctionObjArgs(increment, chunk, nullptr);
        if (!made) { PyErr_Clear(); return 0; }
        Py_DecRef(made);
    }
    return 1;
}

static inline uint64_t nl_handle(PyObject* tensor, PyObject* cdata) {
    if (nl_offset) return reinterpret_cast<uint64_t>(nl_words(tensor)[nl_offset]);
    PyObject* found = PyObject_GetAttr(tensor, cdata);
    if (!found) { PyErr_Clear(); return 0; }
    const uint64_t handle = PyLong_AsUnsignedLongLong(found);
    Py_DecRef(found);
    return handle;
}

// where the entries of a contiguous tensor of so many are; 0 for another
static inline uint64_t nl_place(uint64_t handle, int64_t size) {
    uint64_t pointer = 0;
    int64_t numel = -1;
    bool contiguous = false;
    const bool good = handle && !nl_is_contiguous(&handle, &contiguous) && contiguous && !nl_numel(&handle, &numel) && numel == size;
    return good && !nl_data_ptr(&handle, &pointer) ? pointer : 0;
}

static inline int32_t nl_ask(nl_getter getter, uint64_t handle) {
    int32_t answer = -1;
    return handle && !getter(&handle, &answer) ? answer : -1;
}

int nl_same_rows(PyObject* const* owners, PyObject* const* gradients, nl_size n, PyObject* names,
                 const int64_t* ends, const uint64_t* here, const uint64_t* there) {
    PyObject *grad = PyTuple_GetItem(names, 0), *cdata = PyTuple_GetItem(names, 1);
    for (nl_size i = 0; i < n; ++i) {
        nl_soon_listed(owners, i, n);
        nl_soon_listed(gradients, i, n);
        PyObject* g = PyObject_GetAttr(owners[i], grad);
        if (!g) { PyErr_Clear(); return 0; }
        const int64_t size = ends[i + 1] - ends[i];
        const bool same = g == gradients[i] && nl_place(nl_handle(owners[i], cdata), size) == here[i] && nl_place(nl_handle(g, cdata), size) == there[i];
        Py_DecRef(g);
        if (!same) return 0;
    }
    return 1;
}

int nl_take_rows(PyObject* const* owners, nl_size n, PyObject* names, PyObject* type, const int64_t* ends, const uint64_t* here, uint64_t* there) {
    PyObject *grad = PyTuple_GetItem(names, 0), *cdata = PyTuple_GetItem(names, 1), *is_neg = PyTuple_GetItem(names, 2);
    for (nl_size i = 0; i < n; ++i) {
        nl_soon_listed(owners, i, n);
        PyObject* g = PyObject_GetAttr(owners[i], grad);
        if (!g) { PyErr_Clear(); return 0; }
        PyObject* kind = PyObject_Type(g);
        const int64_t size = ends[i + 1] - ends[i];
        const uint64_t mine = nl_handle(owners[i], cdata), handle = kind == type ? nl_handle(g, cdata) : 0;
        bool same = nl_ask(nl_layout, handle) == nl_strided && nl_ask(nl_dtype, handle) == nl_ask(nl_dtype, mine) && nl_place(mine, size) == here[i];
        if (same) {
            there[i] = nl_place(handle, size);
            PyObject* negated = PyObject_VectorcallMethod(is_neg, &g, 1, nullptr);
            same = (there[i] || !size) && negated && PyObject_IsTrue(negated) == 0;
            if (negated) Py_DecRef(negated); else PyErr_Clear();
        }
        Py_DecRef(kind);
        Py_DecRef(g);
        if (!same) return 0;
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
    one, pointer, count = ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t
    found.nl_same.argtypes = found.nl_changed.argtypes = [one, one]
    found.nl_same_state.argtypes = [one, pointer, pointer, count, pointer, count]
    found.nl_same_places.argtypes = [pointer, pointer, count]
    found.nl_same_rows.argtypes = [pointer, pointer, count, one, pointer, pointer, pointer]
    found.nl_take_rows.argtypes = [pointer, count, one, one, pointer, pointer, pointer]
    try:
        shim = next(ctypes.CDLL(str(f)) for f in sorted(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*")))
        getters = [getattr(shim, f"aoti_torch_{name}") for name in ("get_data_ptr", "get_numel", "is_contiguous", "get_dtype", "get_layout")]
        found.nl_connect((pointer * 5)(*(ctypes.cast(g, pointer) for g in getters)), shim.aoti_torch_layout_strided())
    except (AttributeError, OSError, StopIteration):
        return None
    p = torch.zeros(3)
    p.grad = torch.ones(3)
    owners, ends, here, there = Held([p]), array("q", [0, 3]), array("Q", [p.data_ptr()]), array("Q", [0])
    found.nl_find.argtypes, found.nl_find.restype = [one, ctypes.c_uint64], None
    for t in (torch.nn.Parameter(p), p.grad, p):
        found.nl_find(t, t._cdata)
    found.nl_take_rows(*owners.where, NAMES, Tensor, *map(_start, (ends, here, there)))
    return found if there[0] == p.grad.data_ptr() else None


class Held:
    """Objects that are kept, and their addresses."""

    def __init__(self, objects: list[Any]) -> None:
        self.objects, self.addresses = objects, array("Q", map(id, objects))

    @property
    def where(self) -> tuple[int, int]:
        """The first address and how many there are, as C++ takes them."""
        return self.addresses.buffer_info()


def _start(values: array[int]) -> int:
    return values.buffer_info()[0]


def same(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists hold the same objects."""
    native = probe()
    if native is None:
        return len(a) == len(b) and all(map(operator.is_, a, b))
    return bool(native.nl_same(a, b))


def changed(tensors: list[list[Tensor]]) -> None:
    """Count a change of every tensor, as torch's operations in place do."""
    native = probe()
    if native is None or not native.nl_changed(torch.autograd.graph.increment_version, tensors):
        for some in tensors:
            torch.autograd.graph.increment_version(some)


def values_of(parts: Sequence[dict[str, Any]]) -> list[Any]:
    """The values of all dicts, one after the other."""
    return list(chain.from_iterable(map(dict.values, parts)))


def same_state(state: dict[Any, Any], owners: Held, parts: Held, values: Held) -> bool:
    """Whether an optimizer's state has these keys, dicts and values, in this order."""
    native = probe()
    if native is None:
        return same(list(state), owners.objects) and same(list(state.values()), parts.objects) and same(values_of(parts.objects), values.objects)
    return bool(native.nl_same_state(state, _start(owners.addresses), *parts.where, *values.where))


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
        return bool(native.nl_same_places(_start(self.handles), *self.pointers.buffer_info()))


def same_rows(owners: Held, gradients: Held, ends: array[int], here: array[int], there: array[int]) -> bool:
    """Whether parameters and gradients are the same tensors at the same addresses."""
    native = probe()
    if native is None:
        kept = same(list(map(GRADIENT, owners.objects)), gradients.objects)
        return kept and _keep(owners.objects, ends, here) and _at(gradients.objects, there)
    return bool(native.nl_same_rows(_start(owners.addresses), *gradients.where, NAMES, *map(_start, (ends, here, there))))


def take_rows(owners: Held, dtype: torch.dtype, ends: array[int], here: array[int], there: array[int]) -> bool:
    """Write down where the gradients are, if they are contiguous tensors of this dtype and the parameters are where they were."""
    native = probe()
    if native is not None:
        return bool(native.nl_take_rows(*owners.where, NAMES, Tensor, *map(_start, (ends, here, there))))
    gradients = list(map(GRADIENT, owners.objects))
    if not all(type(g) is Tensor and g.layout is torch.strided and g.dtype is dtype and g.is_contiguous() and not g.is_neg() for g in gradients):
        return False
    there[:] = array("Q", map(Tensor.data_ptr, gradients))
    return _keep(owners.objects, ends, here)


def _keep(owners: list[Tensor], ends: array[int], here: array[int]) -> bool:
    return _at(owners, here) and all(p.is_contiguous() and p.numel() == end - start for p, start, end in zip(owners, ends, ends[1:]))


def _at(tensors: list[Tensor], pointers: array[int]) -> bool:
    return array("Q", map(Tensor.data_ptr, tensors)) == pointers
