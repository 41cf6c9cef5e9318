"""What a process that a rank forks may not do, as functions that every rank of a world runs; see test_space.py."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import sys
import threading
import traceback

import numpy as np
import pytest

import umem
from umem.errors import ForkedRank, NotMappable, UmemError
from umem.memory.address import Kind

STAY = {  # in a child: what touches nothing of the rank's
    *("Space.view", "Space.pointer", "Space.address", "Space.reaches_by_cpu", "Space.close"),
    *("World.leave", "World.may_map", "World.shares_pids"),
    "Agent.close",
}


def answers_of_child(work):
    """What `work()` returns in a forked child, which ends by os._exit."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_end, pickle.dumps(work()))
        except BaseException:  # noqa: BLE001 - the rank goes on alone, whatever its child met
            os.write(write_end, pickle.dumps(traceback.format_exc()))
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answers = pickle.loads(pipe.read())
    os.waitpid(pid, 0)
    return answers


def is_refused(call, *arguments):
    try:
        call(*arguments)
    except ForkedRank as error:
        return error.pid == os.getppid()
    except (UmemError, TypeError):
        pass
    return False


def public_calls(thing):
    """Every public method of an object as (name, method, arguments that fill its parameters)."""
    for name, function in inspect.getmembers_static(type(thing), inspect.isfunction):
        parameters = list(inspect.signature(function).parameters.values())[1:]
        needed = [
            one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD
        ]
        if not name.startswith("_"):
            yield name, getattr(thing, name), [0] * len(needed)


def every_call_is_refused_in_a_child(space):
    things = [
        thing
        for thing in (space, space.heap, space.agent, space.fabric, space.world)
        if thing is not None  # no fabric without UCX
    ]

    def calls_that_are_not_refused():
        return {
            f"{type(thing).__name__}.{name}"
            for thing in things
            for name, method, arguments in public_calls(thing)
            if name != "disown" and not is_refused(method, *arguments)
        }

    answered = answers_of_child(calls_that_are_not_refused)
    assert answered == STAY, answered
    space.barrier()


def arrays_and_scalars_are_refused_in_a_child(space):
    home = space.num_ranks - 1
    array = space.shared("forked", 4, "int64", home=home)
    load, store, put = space.load, space.store, space.put  # bound before the fork
    private, ones = np.zeros(4, np.int64), np.ones(2, np.float32)

    def work():
        return {
            "load": is_refused(load, array.address, "int64"),
            "store": is_refused(store, array.address, 5, "int64"),
            "misaligned": is_refused(load, array.address + 1, "int64"),
            "fetch_add": is_refused(space.fetch_add, array.address, 5),
            "put": is_refused(put, array.address, private),
            "read": is_refused(array.read),
            "write": is_refused(array.write, 5),
            "free": is_refused(array.free),
            "near": is_refused(lambda: space.near.reduce(array.address, ones, "f32")),
            "cache": is_refused(lambda: space.cache),
            "messages": space.fabric is None or is_refused(space.messages.send, 1, home, 0),
            "init": is_refused(umem.init),
            "grandchild": answers_of_child(lambda: not space.is_open and is_refused_in_grandchild(space)),
        }

    space.barrier()
    refused = answers_of_child(work)
    assert all(refused.values()), refused
    space.barrier()
    assert array.read().tolist() == [0] * 4
    space.barrier()


def is_refused_in_grandchild(space):
    with pytest.raises(ForkedRank, match=f"process {space.world.pids[space.rank]}"):
        space.barrier()
    return True


def children_share_mapped_memory(space):
    array = space.shared("forked view", space.num_ranks, "int64", home=0)
    if not space.segments.reach.by_cpu(0, Kind.DEVICE):
        assert answers_of_child(lambda: type(raised(array.numpy))) is NotMappable
    else:
        before = array.numpy()

        def work():
            before[space.rank] += 3
            pickle.loads(pickle.dumps(array)).numpy()[space.rank] += 4
            return True

        assert answers_of_child(work) and before[space.rank] == 7
    space.barrier()


def raised(call):
    try:
        call()
    except UmemError as error:
        return error
    return None


class Leave(BaseException):
    """Leaves all of a rank's frames, as KeyboardInterrupt does."""


def however_a_child_ends_its_rank_stays(space):
    array = space.shared("after children", space.num_ranks, "int64", home=space.num_ranks - 1)
    done = threading.Event()
    thread = threading.Thread(target=done.wait)  # one that the child does not have
    thread.start()
    codes = []
    for leave in (lambda: sys.exit(3), lambda: raise_(Leave("of a child")), space.close):
        pid = os.fork()
        if pid == 0:
            leave()
            os._exit(4)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    done.set()
    thread.join()
    assert codes == [3, 1, 4]
    process = multiprocessing.get_context("fork").Process(target=array.read)  # raises, and is told on stderr
    process.start()
    process.join()
    assert process.exitcode == 1
    space.store(array.address_of(space.rank), 7, "int64")
    peer = (space.rank + 1) % space.num_ranks
    held = space.alloc(64, home=peer)
    space.barrier()
    assert array.read().tolist() == [7] * space.num_ranks
    space.free(held)
    if space.fabric is not None:
        space.send("still me", peer)
        assert space.recv((space.rank - 1) % space.num_ranks) == "still me"
    space.barrier()


def raise_(error):
    raise error


CHECKS = (
    every_call_is_refused_in_a_child,
    arrays_and_scalars_are_refused_in_a_child,
    children_share_mapped_memory,
    however_a_child_ends_its_rank_stays,
)
