/* How a program finds the calls: cuda.bindings looks up one symbol by name, and asks there for all others. */
#include "driver.h"

static const call *const lists[] = {device_calls, vmm_calls,    host_calls,  module_calls,
                                    launch_calls, stream_calls, event_calls, copy_calls};

static CUresult missing(void) {
    complain("a call that is missing");
    return CUDA_ERROR_NOT_SUPPORTED;
}
static CUresult export_table(const void **table, const CUuuid *id) { /* undocumented: nothing is offered */
    *table = NULL;
    return CUDA_ERROR_NOT_FOUND;
}
EXPORTED CUresult cuGetProcAddress_v2(const char *name, void **function, int version, cuuint64_t flags,
                                      CUdriverProcAddressQueryResult *found) {
    *function = (void *)missing;
    if (!strcmp(name, "cuGetProcAddress")) *function = (void *)cuGetProcAddress_v2;
    if (!strcmp(name, "cuGetExportTable")) *function = (void *)export_table;
    for (size_t n = 0; n < sizeof lists / sizeof *lists; n++)
        for (const call *c = lists[n]; c->name; c++)
            if (!strcmp(c->name, name)) *function = c->function;
    if (found) *found = CU_GET_PROC_ADDRESS_SUCCESS;
    return 0;
}
