"""Where CUDA graphs cannot be captured, every call is a plain one; graphs themselves need a GPU."""

from functools import cache

import pytest
import torch

from fdl.training.cuda_graph import WARM_UP, Replay


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to capture a graph, all of which fail."""
    attempts: list[object] = []

    def fail(graph: object, **_: object) -> None:
        attempts.append(graph)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", fail)
    return attempts


def test_a_graph_that_fails_is_tried_once_and_costs_no_call(tried: list[object]) -> None:
    calls: list[int] = []
    said: list[str] = []
    say = cache(said.append)  # as a program has it for all of its graphs
    replays = [Replay(lambda: calls.append(1), "cuda", say) for _ in range(3)]
    for _ in range(WARM_UP + 5):
        for replay in replays:
            replay()
    assert len(calls) == 3 * (WARM_UP + 5)
    assert len(tried) == 3
    assert said == ["no CUDA graph (operation not permitted when stream is capturing); going on without, slower"]


def test_graphs_can_be_switched_off(tried: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDL_EAGER", "1")
    calls: list[int] = []
    replay = Replay(lambda: calls.append(1), "cuda", print)
    for _ in range(WARM_UP + 5):
        replay()
    assert len(calls) == WARM_UP + 5
    assert not tried
