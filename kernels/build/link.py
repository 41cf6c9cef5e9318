"""How device functions are compiled: to LLVM's form alone, for kernels to link.

Numba makes machine code of every function that it compiles. The machine code of a device function is never called,
because each kernel has its own copy, optimised together with the rest of it. So half of all compile time would go
into code that never runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, CompilerPass, PassManager, register_pass
from numba.core.environment import lookup_environment
from numba.core.typed_passes import NativeLowering


class _LinkedLibrary(JITCodeLibrary):
    """A library of LLVM code that other libraries link, and that never becomes machine code."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerToLink(NativeLowering):
    """Lowering that stops before machine code."""

    _name = "lower_to_link"

    def run_pass(self, state: Any) -> bool:
        state.library = _LinkedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        # By this object Numba finds the function when it lowers a call; that Python calls it would end the process.
        handle = _dynfunc.make_function(
            lowered.fndesc.lookup_module(), lowered.fndesc.qualname, "", 0, lowered.env, (state.library,)
        )
        state["cr"] = lowered._replace(cfunc=handle)
        state.targetctx.insert_user_function(handle, lowered.fndesc, [state.library])
        state.reload_init.extend(state.library._reload_init)
        return True


@register_pass(mutates_CFG=False, analysis_only=True)
class _GiveEnvironments(AnalysisPass):
    """Tell a kernel's machine code where the constants of the errors lie that its device functions raise."""

    _name = "give_environments"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        for variable in state.library._final_module.global_variables:
            environment = lookup_environment(variable.name)
            if environment is not None:
                state.targetctx.codegen().set_env(variable.name, environment)
        return False


class LinkCompiler(CompilerBase):
    """Numba's passes for a device function, which end in `_LowerToLink`."""

    def define_pipelines(self) -> list[PassManager]:
        """The one pipeline."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state).passes
        return [_pipeline((_LowerToLink if step is NativeLowering else step, why) for step, why in passes)]


class KernelCompiler(CompilerBase):
    """Numba's passes for a kernel that links what `LinkCompiler` made."""

    def define_pipelines(self) -> list[PassManager]:
        """The one pipeline."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state).passes
        return [_pipeline([*passes, (_GiveEnvironments, "give environments")])]


def _pipeline(passes: Iterable[tuple[type[CompilerPass], str]]) -> PassManager:
    made = PassManager("nopython")
    for step, why in passes:
        made.add_pass(step, why)
    made.finalize()
    return made
