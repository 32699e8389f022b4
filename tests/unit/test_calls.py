from __future__ import annotations

from wherry.calls import CALLS, SCOPES, UNSERVED
from wherry.server.http import HANDLERS


def test_each_call_has_a_handler_and_no_handler_is_without_a_call() -> None:
    """The table of calls and the handlers name the same calls."""
    assert HANDLERS.keys() == {call.name for call in CALLS}


def test_no_two_calls_share_a_name_or_a_route() -> None:
    """A name, and a method with its path, stands for one call."""
    routes = [(call.method, call.path) for call in CALLS] + list(UNSERVED)

    assert len({call.name for call in CALLS}) == len(CALLS)
    assert len(set(routes)) == len(routes)


def test_a_call_fills_its_path_in() -> None:
    """A call's url has the values of its path's names."""
    (call,) = [call for call in CALLS if call.name == "image_actions.get"]

    assert call.path_params == ("image_id", "action_id")
    assert call.url(image_id=1, action_id=2) == "/v2/images/1/actions/2"


def test_a_token_may_be_given_each_scope_that_a_call_needs() -> None:
    """Every call needs a scope, and each of them can be given."""
    assert all(call.scopes and set(call.scopes) <= set(SCOPES) for call in CALLS)
