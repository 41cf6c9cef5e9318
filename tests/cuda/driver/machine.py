"""Machine code of PTX for this CPU, as a shared library with a table of its kernels: c/module.c loads it.

python -m driver.machine KERNEL.ptx KERNEL.so MODES     # 1: weak memory, 2: strict; the driver starts it
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from llvmlite import binding as llvm
from llvmlite import ir

from .parse import Unsupported
from .translate import Translator
from .types import I8, I32, POINTER

WEAK, STRICT = 1, 2
LARGE = 200_000  # characters of PTX from which optimising takes longer than it saves
OPTIMISED, PLAIN = 2, 0


def library(text: str, modes: int, path: Path) -> None:
    """Write the library of `text` to `path`, whole or not at all. Raises Unsupported."""
    translator = Translator(text, bool(modes & WEAK), bool(modes & STRICT))
    _add_table(translator)
    level = PLAIN if len(text) > LARGE else OPTIMISED
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        code, made = Path(folder) / "code.o", Path(folder) / "code.so"
        code.write_bytes(_object(str(translator.module), level))
        subprocess.run(["cc", "-shared", "-o", str(made), str(code), "-lm"], check=True)
        os.replace(made, path)


def _add_table(translator: Translator) -> None:
    """The kernels as data: `ptx_kernels` of `ptx_num_kernels` rows, in the order of c/execute.h's struct."""
    row = ir.LiteralStructType([POINTER, POINTER, POINTER, I32, I32, I32])
    rows = []
    for kernel in translator.kernels.values():
        name = _data(translator.module, f"name.{kernel.name}", bytearray(kernel.name.encode() + b"\0"))
        flat = [number for pair in kernel.parameters for number in pair]
        pairs = ir.Constant(ir.ArrayType(I32, len(flat)), flat or None)
        place = ir.GlobalVariable(translator.module, pairs.type, f"parameters.{kernel.name}")
        place.initializer, place.linkage = pairs, "internal"
        code = translator.functions[kernel.name]
        counts = (len(kernel.parameters), kernel.shared_bytes, int(kernel.waits))
        pointers = (name, code, place)
        rows.append(row([*(one.bitcast(POINTER) for one in pointers), *(I32(count) for count in counts)]))
    table = ir.Constant(ir.ArrayType(row, len(rows)), rows)
    ir.GlobalVariable(translator.module, table.type, "ptx_kernels").initializer = table
    ir.GlobalVariable(translator.module, I32, "ptx_num_kernels").initializer = I32(len(rows))


def _data(module: ir.Module, name: str, data: bytearray) -> ir.GlobalVariable:
    kind = ir.ArrayType(I8, len(data))
    made = ir.GlobalVariable(module, kind, name)
    made.initializer, made.linkage = ir.Constant(kind, data), "internal"
    return made


def _object(text: str, level: int) -> bytes:
    """Object code of LLVM's text for this CPU."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=level,
        reloc="pic",
        codemodel="default",
    )
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    if level == OPTIMISED:
        builder.getModulePassManager().run(module, builder)
    else:
        passes = llvm.create_new_function_pass_manager()
        passes.add_sroa_pass()
        for function in module.functions:
            if not function.is_declaration:
                passes.run(function, builder)
    return machine.emit_object(module)


if __name__ == "__main__":
    source, target, chosen = sys.argv[1:]
    try:
        library(Path(source).read_text(), int(chosen), Path(target))
    except Unsupported as error:
        sys.exit(f"PTX that this driver does not translate: {error}")
