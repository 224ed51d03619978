/* The C-level API as _core hands it out. */
#ifndef SF_API_H
#define SF_API_H

#ifndef SOFTMAX_FAST_NO_PYTHON
#define SOFTMAX_FAST_NO_PYTHON
#endif
#include "../include/softmax_fast.h"

extern const softmax_fast_table sf_api_table;

#endif
