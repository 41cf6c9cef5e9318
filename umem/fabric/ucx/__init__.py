"""libucp, driven from compiled loops without the GIL. Imported on demand, never by `import umem`.

library     which libucp, and loading it
tools       ucx_info, ucx_perftest, and what `umem info` says
abi         structures and constants of libucp, as data
context     handles and their lifetimes: context, workers, endpoints, registered memory
calls       symbols of libucp for compiled code
channels    a worker for each peer
turns       which thread uses the channels of a rank
port        what compiled code needs to talk with one rank
waiting     the one compiled wait
operations  one operation at a time: messages, put, get, flush, atomics
ports       a port for each operation in progress
tags        what a message is matched by
parcels     messages of any length, received whole
fabric      UcxFabric: the ranks of a world
"""
