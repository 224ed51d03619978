/* Rows beyond the reach of their kernels, because of their temperature, weights or targets: they are
 * computed in double, one by one, whatever the rows beside them are. */
#ifndef SF_BEYOND_H
#define SF_BEYOND_H

#include "kernels.h"

/* What of a call has to be looked at row by row; 0: nothing, all rows are within reach. */
int sf_reach(const sf_call *call, int operation);
int sf_is_beyond(const sf_call *call, int reach, ptrdiff_t row);

/* scratch has sf_beyond_bytes. */
size_t sf_beyond_bytes(const sf_call *call);
void sf_run_beyond(const sf_call *call, int operation, ptrdiff_t row, sf_result *result, void *scratch);

#endif
