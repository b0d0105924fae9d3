"""CUDA graphs: when functions are captured and replayed, and what happens if that fails; with a fake graph."""

import gc
import traceback
import weakref
from contextlib import contextmanager
from functools import cache

import pytest
import torch

from fdl.training.cuda_graph import WARM_UP, Replays

CALLS = WARM_UP + 5


class Graph:
    """A fake graph, as there is no GPU: it remembers its pool and how often it was replayed."""

    made: list["Graph"]

    def __init__(self):
        self.used, self.replays, self.ended = None, 0, False
        Graph.made.append(self)

    def pool(self):
        """The pool that it shares with another graph, or its own."""
        if not self.ended:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return self.used or f"pool of {Graph.made.index(self)}"

    def replay(self):
        self.replays += 1


@pytest.fixture
def graphs(monkeypatch):
    """A list of all fake graphs; a capture runs the function."""
    Graph.made = []

    @contextmanager
    def capture(graph, *, pool, stream):
        graph.used = pool
        try:
            yield
        finally:
            graph.ended = True

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return Graph.made


def cut_off(monkeypatch):
    """Make captures in which something fails end as in CUDA: with an error that hides the first one."""

    @contextmanager
    def capture(graph, **_):
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error\nduring capture")

    monkeypatch.setattr(torch.cuda, "graph", capture)


def test_functions_are_captured_after_some_calls_and_all_graphs_share_a_pool(graphs):
    calls = []
    replays = Replays("cuda", print)
    for _ in range(CALLS):
        for name in ("step", "short step", "evaluation"):
            replays(name, lambda name=name: calls.append(name))
    assert len(calls) == 3 * (WARM_UP + 1), "the warm-up and the capture"
    assert [graph.replays for graph in graphs] == [CALLS - WARM_UP] * 3
    assert [graph.used for graph in graphs] == [None, "pool of 0", "pool of 0"]


def test_a_graph_that_fails_is_tried_once_costs_no_call_and_leaves_its_traceback(graphs, monkeypatch):
    cut_off(monkeypatch)
    calls, said = [], []
    replays = Replays("cuda", cache(said.append))  # as a program has it

    def a_step_that_synchronises():
        calls.append(1)
        if len(calls) == WARM_UP + 1:
            raise RuntimeError("operation not permitted when stream is capturing")

    for _ in range(CALLS):
        replays("step", a_step_that_synchronises)
    assert len(graphs) == 1
    assert len(calls) == CALLS + 1
    line, log = said
    assert line == "no CUDA graph (operation failed due to a previous error during capture); going on without, slower"
    assert "operation not permitted" in log
    assert "in a_step_that_synchronises" in log


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("Tried to allocate"), RuntimeError("CUDA error: out of memory")]
)
def test_exhausted_memory_during_a_capture_is_raised(graphs, monkeypatch, error):
    """Then the program is halved; continuing without a graph would need at least as much memory."""
    cut_off(monkeypatch)
    said = []
    replays = Replays("cuda", said.append)
    calls = []

    def large():
        calls.append(1)
        if len(calls) > WARM_UP:
            raise error

    for _ in range(WARM_UP):
        replays("step", large)
    with pytest.raises(torch.OutOfMemoryError, match=str(error)) as failure:
        replays("step", large)
    assert "in large" in "".join(traceback.format_exception(failure.value))
    assert not said


@pytest.mark.parametrize(
    ("message", "raised"),
    [("CUDA error: out of memory", torch.OutOfMemoryError), ("CUDA error: unknown error", RuntimeError)],
)
def test_exhausted_memory_at_the_start_of_a_graph_is_told_from_other_errors(graphs, monkeypatch, message, raised):
    replays = Replays("cuda", print)

    def replay(graph):
        raise RuntimeError(message)

    monkeypatch.setattr(Graph, "replay", replay)
    for _ in range(WARM_UP):
        replays("step", lambda: None)
    with pytest.raises(RuntimeError, match=message) as failure:
        replays("step", lambda: None)
    assert failure.type is raised


@pytest.mark.parametrize("ends", [True, False])
def test_only_a_graph_whose_capture_was_aborted_is_never_freed(graphs, monkeypatch, ends):
    """Torch's allocator would take another graph at the same address for it."""
    if not ends:
        cut_off(monkeypatch)
    replays = Replays("cuda", print)
    calls = []

    def large():
        calls.append(1)
        if len(calls) > WARM_UP:
            raise torch.OutOfMemoryError("Tried to allocate")

    for _ in range(WARM_UP):
        replays("step", large)
    with pytest.raises(torch.OutOfMemoryError):
        replays("step", large)
    graph = weakref.ref(graphs.pop())
    del replays
    gc.collect()
    assert (graph() is None) is ends


def test_graphs_can_be_switched_off(graphs, monkeypatch):
    monkeypatch.setenv("FDL_EAGER", "1")
    calls = []
    replays = Replays("cuda", print)
    for _ in range(CALLS):
        replays("step", lambda: calls.append(1))
    assert len(calls) == CALLS
    assert not graphs
