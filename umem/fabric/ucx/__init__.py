"""libucp, driven from compiled loops without the GIL. Imported on demand, never by `import umem`.

library     which libucp, and loading it
tools       ucx_info, ucx_perftest, and what `umem info` says
abi         structures and constants of libucp, as data
context     handles and their lifetimes: context, workers, endpoints, registered memory
calls       symbols of libucp for compiled code
port        what compiled code needs to drive one worker
waiting     the one compiled wait
operations  one operation at a time: messages, put, get, flush, atomics
windows     many in flight, as a benchmark needs
fabric      UcxFabric: the ranks of a world
"""
