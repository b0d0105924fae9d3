"""The addresses that `make ui` prints."""

import socket
from pathlib import Path

import pytest

from fdl.results.collect import collect
from fdl.tracking.links import links, main
from fdl.tracking.mirror import track
from tests.reporting.fabricate import fabricate, small_grid


def test_links_open_the_tables_of_every_experiment(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{project / 'mlflow.db'}"
    assert links(uri=uri) == []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main([f"http://127.0.0.1:{port}", uri]) == 2
    assert f"fdl: port {port} is taken" in capsys.readouterr().err
    assert main([f"http://127.0.0.1:{port}", uri]) == 0
    assert "fdl track" in capsys.readouterr().out
    grid = small_grid(shots=[3], seeds=[0])
    fabricate(grid)
    collect(grid)
    track(grid, uri=uri)
    lines = links("http://127.0.0.1:5001", uri)
    assert lines == [
        f"fdl-demo, {view}: http://127.0.0.1:5001/#/experiments/1/runs?viewStateShareKey=fdl-{view}"
        for view in ("cells", "bundles")
    ]
