#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "consumer.h"

/* answer(call, addresses) -> reply, each of them the bytes of the struct. */
static PyObject *answer_bytes(PyObject *self, PyObject *args)
{
    const char *call_bytes, *arrays_bytes;
    Py_ssize_t call_size, arrays_size;
    call c;
    arrays a;
    reply r;
    (void)self;
    if (!PyArg_ParseTuple(args, "y#y#", &call_bytes, &call_size, &arrays_bytes, &arrays_size))
        return NULL;
    if (call_size != sizeof c || arrays_size != sizeof a) {
        PyErr_SetString(PyExc_ValueError, "wrong size");
        return NULL;
    }
    memcpy(&c, call_bytes, sizeof c);
    memcpy(&a, arrays_bytes, sizeof a);
    Py_BEGIN_ALLOW_THREADS
    r = answer(&c, &a);
    Py_END_ALLOW_THREADS
    return PyBytes_FromStringAndSize((const char *)&r, sizeof r);
}

static PyMethodDef methods[] = {
    {"answer", answer_bytes, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "c_extension", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_c_extension(void)
{
    if (import_softmax_fast() < 0)
        return NULL;
    return PyModule_Create(&module);
}
