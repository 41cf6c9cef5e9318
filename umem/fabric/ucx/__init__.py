"""libucp, driven from compiled loops without the GIL. Imported on demand, never by `import umem`.

library (which libucp), abi (its structures), context (handles and their lifetimes), calls (symbols
for compiled code), waiting and loops (compiled operations), windows (many requests in flight, as a
benchmark needs), fabric (put, get, atomics and messages between the ranks of a world).
"""
