"""The web face: binds each row of the table of calls to its handler. The only room that knows the web framework."""

from __future__ import annotations

from collections import defaultdict
from importlib.resources import files
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from wherry import calls as c
from wherry.errors import BadRequest, MethodNotAllowed, NotFound, NotServed
from wherry.server.catalog import GONE
from wherry.server.http import (
    account,
    account_transfers,
    actions,
    block_exports,
    block_uploads,
    droplets,
    edge,
    effects,
    exports,
    images,
    openapi,
    regions,
    ssh_keys,
    tags,
    test_controls,
    uploads,
)
from wherry.server.http.browsers import PAGE_POLICY, with_cors, with_safe_headers
from wherry.server.http.health import Checks, Health, Well, health_endpoints, make_health_app
from wherry.server.http.hosts import ANY_HOST, Hosts, believed
from wherry.server.http.observed import named, observed
from wherry.server.http.routes import Routes, serve_routes
from wherry.server.http.serializers import Serializer
from wherry.server.http.service import Service
from wherry.server.settings import Limits
from wherry.server.telemetry.logs import bound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from wherry.server.http.routes import Endpoint

__all__ = ["HANDLERS", "Checks", "Health", "Hosts", "Serializer", "Service", "make_app", "make_health_app"]

HANDLERS: dict[str, Callable[..., Any]] = {
    c.ACCOUNT_GET.name: account.get_account,
    c.IMAGES_LIST.name: images.list_images,
    c.IMAGES_CREATE.name: images.create_image,
    c.IMAGES_GET.name: images.get_image,
    c.IMAGES_UPDATE.name: images.update_image,
    c.IMAGES_DELETE.name: images.delete_image,
    c.IMAGE_ACTIONS_LIST.name: actions.list_image_actions,
    c.IMAGE_ACTIONS_CREATE.name: actions.create_image_action,
    c.IMAGE_ACTIONS_GET.name: actions.get_image_action,
    c.ACTIONS_LIST.name: actions.list_actions,
    c.ACTIONS_GET.name: actions.get_action,
    c.REGIONS_LIST.name: regions.list_regions,
    c.SIZES_LIST.name: regions.list_sizes,
    c.SNAPSHOTS_LIST.name: images.list_snapshots,
    c.SNAPSHOTS_GET.name: images.get_snapshot,
    c.SNAPSHOTS_DELETE.name: images.delete_snapshot,
    c.DROPLETS_LIST.name: droplets.list_droplets,
    c.DROPLETS_CREATE.name: droplets.create_droplets,
    c.DROPLETS_DELETE_TAGGED.name: droplets.delete_tagged,
    c.DROPLETS_GET.name: droplets.get_droplet,
    c.DROPLETS_DELETE.name: droplets.delete_droplet,
    c.DROPLET_SNAPSHOTS.name: droplets.list_snapshots,
    c.DROPLET_BACKUPS.name: droplets.list_backups,
    c.DROPLET_ACTIONS_LIST.name: droplets.list_actions,
    c.DROPLET_ACTIONS_CREATE.name: droplets.create_action,
    c.DROPLET_ACTIONS_GET.name: droplets.get_action,
    c.DROPLET_ACTIONS_CREATE_TAGGED.name: droplets.create_tagged_actions,
    c.BACKUP_POLICY_GET.name: droplets.get_policy,
    c.BACKUP_POLICIES_LIST.name: droplets.list_policies,
    c.BACKUP_POLICIES_SUPPORTED.name: droplets.list_supported_policies,
    c.TAGS_LIST.name: tags.list_tags,
    c.TAGS_CREATE.name: tags.create_tag,
    c.TAGS_GET.name: tags.get_tag,
    c.TAGS_DELETE.name: tags.delete_tag,
    c.TAGS_ASSIGN.name: tags.assign_tag,
    c.TAGS_UNASSIGN.name: tags.unassign_tag,
    c.SSH_KEYS_LIST.name: ssh_keys.list_keys,
    c.SSH_KEYS_CREATE.name: ssh_keys.create_key,
    c.SSH_KEYS_GET.name: ssh_keys.get_key,
    c.SSH_KEYS_UPDATE.name: ssh_keys.update_key,
    c.SSH_KEYS_DELETE.name: ssh_keys.delete_key,
    c.ACCOUNT_TRANSFERS_CREATE.name: account_transfers.create_offer,
    c.ACCOUNT_TRANSFERS_ACCEPT.name: account_transfers.accept_offer,
    c.ACCOUNT_TRANSFERS_CANCEL.name: account_transfers.cancel_offer,
    c.ACCOUNT_TRANSFERS_DECLINE.name: account_transfers.decline_offer,
    c.FIREWALLS_LIST.name: droplets.list_firewalls,
    c.ACTIONS_CANCEL.name: actions.cancel_action,
    c.IMAGES_EXPORT.name: exports.export_image,
    c.IMAGE_BLOCKS_LIST.name: block_exports.list_blocks,
    c.IMAGE_BLOCKS_READ.name: block_exports.read_blocks,
    c.REPLICAS_DELETE.name: images.delete_replica,
    c.UPLOADS_CREATE.name: uploads.create_upload,
    c.UPLOADS_GET.name: uploads.get_upload,
    c.UPLOADS_APPEND.name: uploads.append_upload,
    c.UPLOADS_FINISH.name: uploads.finish_upload,
    c.UPLOADS_DELETE.name: uploads.delete_upload,
    c.UPLOAD_BLOCKS_MISSING.name: block_uploads.find_missing,
    c.UPLOAD_BLOCKS_PUT.name: block_uploads.put_blocks,
    c.UPLOAD_DISK_PUT.name: block_uploads.put_disk,
    c.COLLECT.name: actions.collect,
    c.COMPACT.name: actions.compact,
    c.IMAGE_USAGE.name: images.get_usage,
    c.USAGE.name: regions.list_usage,
    c.EXPIRE.name: actions.expire,
    c.IMAGES_VERIFY.name: actions.verify,
    c.SCRUB.name: actions.scrub,
    c.DISK_EXPORT.name: droplets.export_disk,
    c.DISK_IMPORT.name: droplets.import_disk,
    c.TEST_IMAGE.name: test_controls.create_test_image,
    c.TEST_RESET.name: test_controls.reset,
    c.TEST_BACKUP.name: test_controls.back_up,
    c.TEST_CLOCK.name: test_controls.set_clock,
    c.TEST_FAULTS.name: test_controls.ask_fault,
}
"""The handler of each call. One that is async takes or gives bytes and makes its own reply."""

_CONSOLE = (
    ("/", "index.html", "text/html; charset=utf-8"),
    ("/console/console.css", "console.css", "text/css; charset=utf-8"),
    ("/console/console.js", "console.js", "text/javascript; charset=utf-8"),
)
"""The page of the API: where each file of it is served, and as what. It has no inline script or style."""


def make_app(
    service: Service, *, rate_limit: int = 0, test_mode: bool = False, health: Health | None = None,
    hosts: Hosts = ANY_HOST, largest_body_bytes: int = Limits.body_bytes,
) -> ASGIApp:  # fmt: skip
    """Return the web face of a service, as an ASGI application. Without ``health``, it says that all is well.

    A body of JSON may have ``largest_body_bytes``. By default any Host header is believed: an application that is
    called in its own process has no other sites' pages among its callers.
    """
    gate = edge.Gate(service.catalog, rate_limit)
    served = [call for call in c.CALLS if test_mode or not call.test_mode]
    by_path: defaultdict[str, dict[str, Endpoint]] = defaultdict(dict)
    for call in served:
        by_path[call.path][call.method] = named(call.name, _endpoint(call, service, gate, largest_body_bytes))
    for method, path in c.UNSERVED:
        by_path[path][method] = named("unserved", _not_served(gate))
    document = edge.encode(openapi.document(served))
    by_path["/openapi.json"]["GET"] = named("openapi", _fixed(document, "application/json"))
    console = files("wherry.server.http") / "console"
    for path, name, media_type in _CONSOLE:
        shown = _fixed((console / name).read_bytes(), media_type, {"content-security-policy": PAGE_POLICY})
        by_path[path]["GET"] = named("console", shown)
    for path, endpoints in health_endpoints(health or Well()).items():
        by_path[path] = {method: named(path.strip("/"), endpoint) for method, endpoint in endpoints.items()}
    routes = serve_routes(Routes(by_path), _unknown(gate), _wrong_method(gate))

    def refuse(request: Request, error: BadRequest) -> Response:
        return edge.error_reply(error, gate.headers(request))

    return with_safe_headers(observed(believed(with_cors(routes), hosts, refuse)))


def _endpoint(call: c.Call, service: Service, gate: edge.Gate, largest_body_bytes: int) -> Endpoint:
    handler = HANDLERS[call.name]
    # Short reads of a local database that never wait for a writer: a thread would cost more than the read.
    is_quick = service.catalog.is_local

    def let_in(request: Request, headers: dict[str, str]) -> edge.RequestContext:
        token = gate.token(request)
        gate.admit(token, call, headers)
        edge.check_text(request)
        context = edge.RequestContext(call, token, request)
        edge.check_choices(context)
        return context

    def answer(context: edge.RequestContext, headers: dict[str, str], raw: bytes) -> Response:
        if call.body is not None:
            context.body = edge.decode_body(call, raw)
            effects.check(context.body)
        with bound(account_id=context.account_id):
            body = handler(service, context)
        status = next((code for code, kind in call.replies.items() if kind is type(body)), call.status)
        return edge.reply(status, body, headers)

    async def serve(request: Request, headers: dict[str, str]) -> Response:
        # From the headers alone: of a request that is not let in, no byte of the body is read.
        if is_quick or gate.knows(request):
            context = let_in(request, headers)
        else:
            context = await run_in_threadpool(let_in, request, headers)
        if iscoroutinefunction(handler):
            with bound(account_id=context.account_id):
                response: Response = await handler(service, context, headers)
            return response
        if call.method == "GET" and is_quick:
            return answer(context, headers, b"")
        raw = b"" if call.body is None else await edge.read_body(request, largest_body_bytes)
        return await run_in_threadpool(answer, context, headers, raw)

    return _caught(serve, gate)


def _caught(serve: Callable[[Request, dict[str, str]], Awaitable[Response]], gate: edge.Gate) -> Endpoint:
    """The edge, where an error becomes a reply."""

    async def endpoint(request: Request) -> Response:
        headers = gate.headers(request)
        try:
            return await serve(request, headers)
        except ClientDisconnect:
            return Response(status_code=edge.GONE_AWAY)  # for the log; there is no one to send it to
        except Exception as error:  # noqa: BLE001
            return edge.error_reply(error, headers)

    return endpoint


def _not_served(gate: edge.Gate) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        missing = NotServed(f"wherry does not serve {request.method} {request.url.path}.")
        return edge.error_reply(missing, gate.headers(request))

    return endpoint


def _fixed(content: bytes, media_type: str, headers: dict[str, str] | None = None) -> Endpoint:
    async def endpoint(_request: Request) -> Response:
        return Response(content, media_type=media_type, headers=headers)

    return endpoint


def _unknown(gate: edge.Gate) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        parts = request.url.path.split("/")
        if parts[1:2] == ["v2"] and len(parts) > 2 and parts[2] in c.UNSERVED_COLLECTIONS:  # noqa: PLR2004
            return await named("unserved", _not_served(gate))(request)
        return edge.error_reply(NotFound(GONE), gate.headers(request))

    return endpoint


def _wrong_method(gate: edge.Gate) -> Callable[[Request, list[str]], Response]:
    def answer(request: Request, allowed: list[str]) -> Response:
        wrong = MethodNotAllowed(f"{request.url.path} does not take {request.method}.")
        return edge.error_reply(wrong, {**gate.headers(request), "allow": ", ".join(allowed)})

    return answer
