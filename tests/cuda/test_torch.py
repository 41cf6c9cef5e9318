"""umem.torch on a GPU, as far as it goes without one: real callbacks, driver/, a stand-in for torch's side.

Evidence that memory of the right GPU is handed over with the right signatures, and is reused only when its
stream has passed; no evidence about a GPU.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

STEPS = (
    "torch_is_given_memory_of_the_gpu",
    "memory_waits_for_the_stream_that_used_it",
    "work_after_the_free_is_not_waited_for",
    "a_full_gpu_waits_for_what_is_under_way",
    "more_may_wait_than_the_table_holds",
    "memory_without_an_event_is_never_given_out_again",
    "threads_take_and_give_at_once",
    "closing_is_refused_while_torch_has_memory",
    "detached_memory_stays",
    "sizes_and_order_are_checked",
)


@pytest.fixture(scope="module")
def told(run_steps) -> str:
    """What all steps print, run once."""
    return run_steps("run_all", module="torch_steps", capturing=1)


@pytest.mark.parametrize("step", STEPS)
def test_torch(told, step):
    assert f"{step} ok" in told, told


def test_gpu_check_says_that_torch_was_not_checked(monkeypatch):
    import gpu_torch
    import torch
    from gpu_isolated import judge

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = [judge(case) for case in gpu_torch.cases() if case.name.startswith("torch")]
    assert {verdict for verdict, _ in told} == {"waived"}
    assert all("sees no CUDA device: umem.torch is not checked" in evidence for _, evidence in told)
