"""A CUDA driver that executes: libcuda.so.1 whose kernels are the PTX of every launch, run on this CPU.

The real cuda.bindings loads it in place of NVIDIA's. Device memory is memfds, so processes share it; the threads of
a launch are fibers on a few threads of the CPU. It refuses what the driver's documentation forbids and counts what is
left open. It shows that PTX computes the right values, that its orderings suffice (weak memory) and that kernels touch
only what their device was given (strict); it is no evidence about a GPU's speed or about a link between GPUs.

| file | holds |
|---|---|
| parse.py | the text of PTX: functions, variables, statements, instructions |
| types.py, values.py | types, constants, registers; operands as values of LLVM |
| arithmetic.py, bits.py, convert.py, memory.py, control.py | what each instruction becomes |
| translate.py | a PTX module as one of LLVM |
| machine.py | machine code of it, as a library with a table of its kernels |
| build.py | the driver, compiled by cc; both kept by hash, so that a test waits for neither twice |
| c/ | the driver: devices, memory, streams, launches, fibers, weak memory |

Options are variables of the environment, read when they matter: the FAKE_CUDA_* of c/driver.h.
"""
