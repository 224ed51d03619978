from softmax_fast.capi cimport *
