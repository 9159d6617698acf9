"""The table of last results: what this process knows is added to, and says what the server does."""

from collections.abc import Callable

import httpx
import pytest

from flows.sweep import sweep
from tasks import last_results
from tests.flows.scene import Scene

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def test_only_what_ended_since_is_asked_for_and_all_is_said(
    new_site: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site({"web": [1 << 20]})
    asked: list[str] = []
    send = httpx.Client.send

    def counting(self: httpx.Client, request: httpx.Request, **more: bool) -> httpx.Response:
        asked.append(request.url.path)
        return send(self, request, **more)  # type: ignore[arg-type]  # handed on

    sweep(site=site.name)
    (first,) = last_results.last_results(site.name)
    sweep(site=site.name)
    monkeypatch.setattr(httpx.Client, "send", counting)
    (second,) = last_results.last_results(site.name)
    monkeypatch.undo()

    assert [path for path in asked if path.endswith("/filter")] == ["/api/flow_runs/filter"]
    assert first.what == second.what == "sweep"
    assert first.ended_at < second.ended_at == second.good_at
    monkeypatch.setattr(last_results, "_known", {})
    assert last_results.last_results(site.name) == [second], "as the server says when asked anew"
