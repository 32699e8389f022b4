"""The wire contract as data, for both sides: one row a call. No I/O.

The server binds each row to a handler, checks its scopes and writes its OpenAPI document from it; both faces of the
client take method, path and types from it. A new call is one row here, one handler, one test.

Paths, scopes, statuses and shapes of the rows that are not ``ours`` are DigitalOcean's (API v2, public specification).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from wherry import models as m

ParamKind = Literal["string", "integer", "boolean"]


@dataclass(frozen=True)
class Param:
    """A query parameter or a request header. Unknown query parameters are ignored."""

    name: str
    about: str
    kind: ParamKind = "string"
    values: tuple[str, ...] = ()
    required: bool = False
    place: Literal["query", "header"] = "query"


@dataclass(frozen=True)
class Call:
    """One call of the API.

    ``replies`` maps each success status to the type of its JSON body (None: empty); the first one is the usual one.
    ``body`` is the type of a JSON request body. ``body_media`` and ``reply_media`` name a body that is bytes.
    ``errors`` are the statuses that the call may answer besides those that every call may (``COMMON_ERRORS``).
    """

    name: str
    method: str
    path: str
    about: str
    scopes: tuple[str, ...]
    replies: dict[int, Any]
    body: Any = None
    params: tuple[Param, ...] = ()
    errors: tuple[int, ...] = ()
    ours: bool = False
    test_mode: bool = False
    body_media: str | None = None
    reply_media: str | None = None

    @property
    def status(self) -> int:
        """The usual success status."""
        first: int = next(iter(self.replies))
        return first

    @property
    def reply(self) -> Any:
        """The type of the usual success body, or None."""
        return self.replies[self.status]

    @property
    def path_params(self) -> tuple[str, ...]:
        """The names in the path's braces, in order."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    def url(self, **values: object) -> str:
        """The path with its braces filled in."""
        return self.path.format(**values)


PAGE = Param("page", "Which page, from 1. Anything else counts as 1.", "integer")
PER_PAGE = Param("per_page", "How many a page, 1 to 200; 20 unless told, more counts as 200.", "integer")
PAGING = (PAGE, PER_PAGE)
IDEMPOTENCY_KEY = Param(
    "Idempotency-Key",
    "Up to 255 characters (ours). A repeat with the same key within 24 hours answers with the first one's action.",
    place="header",
)
RANGE = Param("Range", "Which bytes of the export, as in RFC 9110: one range.", place="header")
UPLOAD_OFFSET = Param(
    "Upload-Offset",
    "Where these bytes begin; must equal the upload's offset.",
    "integer",
    required=True,
    place="header",
)

COMMON_ERRORS = (400, 401, 403, 404, 429, 500, 503)
"""Statuses with an error body that every call may answer."""

BYTES = "application/octet-stream"

ACCOUNT_GET = Call("account.get", "GET", "/v2/account", "Who the token belongs to.", ("account:read",),
                   {200: m.AccountReply})  # fmt: skip

IMAGES_LIST = Call(
    "images.list", "GET", "/v2/images", "List images, newest first.", ("image:read",), {200: m.ImagePage},
    params=(
        Param("type", "Only vendor images of this origin.", values=("distribution", "application")),
        Param("private", "Only the account's own: snapshots, backups and custom images.", "boolean"),
        Param("tag_name", "Only images with this tag."),
        *PAGING,
    ),
)  # fmt: skip
IMAGES_CREATE = Call(
    "images.create", "POST", "/v2/images", "Import a custom image from a URL.", ("image:create",),
    {202: m.ImageCreatedReply}, body=m.ImageCreateRequest, params=(IDEMPOTENCY_KEY,), errors=(422,),
)  # fmt: skip
IMAGES_GET = Call("images.get", "GET", "/v2/images/{image_id}", "Read an image by its id, or a public one by its slug.",
                  ("image:read",), {200: m.ImageReply})  # fmt: skip
IMAGES_UPDATE = Call("images.update", "PUT", "/v2/images/{image_id}", "Change an image's name or description.",
                     ("image:update",), {200: m.ImageReply}, body=m.ImageUpdateRequest, errors=(422,))  # fmt: skip
IMAGES_DELETE = Call("images.delete", "DELETE", "/v2/images/{image_id}", "Delete an image in all its regions.",
                     ("image:delete",), {204: None}, errors=(422,))  # fmt: skip

IMAGE_ACTIONS_LIST = Call("image_actions.list", "GET", "/v2/images/{image_id}/actions", "List an image's actions.",
                          ("image:read",), {200: m.ActionPage}, params=PAGING)  # fmt: skip
IMAGE_ACTIONS_CREATE = Call(
    "image_actions.create", "POST", "/v2/images/{image_id}/actions",
    "Transfer an image to another region, or convert a backup to a snapshot.", ("image:update",),
    {201: m.ImageActionReply, 200: m.TransferPlanReply}, body=m.ImageActionRequest, params=(IDEMPOTENCY_KEY,),
    errors=(422,),
)  # fmt: skip
IMAGE_ACTIONS_GET = Call("image_actions.get", "GET", "/v2/images/{image_id}/actions/{action_id}",
                         "Read an action of an image.", ("image:read",), {200: m.ImageActionReply})  # fmt: skip

ACTIONS_LIST = Call("actions.list", "GET", "/v2/actions", "List all actions, newest first.", ("actions:read",),
                    {200: m.ActionPage}, params=PAGING)  # fmt: skip
ACTIONS_GET = Call("actions.get", "GET", "/v2/actions/{action_id}", "Read an action.", ("actions:read",),
                   {200: m.ActionReply})  # fmt: skip

REGIONS_LIST = Call("regions.list", "GET", "/v2/regions", "List the regions.", ("regions:read",),
                    {200: m.RegionPage}, params=PAGING)  # fmt: skip
SIZES_LIST = Call("sizes.list", "GET", "/v2/sizes", "List the sizes.", ("sizes:read", "regions:read"),
                  {200: m.SizePage}, params=PAGING)  # fmt: skip

SNAPSHOTS_LIST = Call(
    "snapshots.list", "GET", "/v2/snapshots", "List snapshots of Droplets.", ("snapshot:read",), {200: m.SnapshotPage},
    params=(Param("resource_type", "Only snapshots of this.", values=("droplet", "volume")), *PAGING),
)  # fmt: skip
SNAPSHOTS_GET = Call("snapshots.get", "GET", "/v2/snapshots/{snapshot_id}", "Read a snapshot.",
                     ("snapshot:read", "block_storage_snapshot:read"), {200: m.SnapshotReply})  # fmt: skip
SNAPSHOTS_DELETE = Call("snapshots.delete", "DELETE", "/v2/snapshots/{snapshot_id}", "Delete a snapshot.",
                        ("image:delete", "snapshot:delete"), {204: None}, errors=(422,))  # fmt: skip

# Ours, beside the contract: paths that a client of DigitalOcean never calls.

ACTIONS_CANCEL = Call("actions.cancel", "POST", "/v2/actions/{action_id}/cancel",
                      "Ask that an action stop; it then ends as errored with the code cancelled.",
                      ("image:update",), {200: m.ActionReply}, errors=(422,), ours=True)  # fmt: skip
IMAGES_EXPORT = Call(
    "images.export", "GET", "/v2/images/{image_id}/export", "Read an image's bytes, checked on the way.",
    ("image:read",), {200: None, 206: None},
    params=(
        Param("format", "Which format; raw unless told.", values=("raw", "qcow2")),
        Param("region", "Read this region's copy; the first one unless told."),
        RANGE,
    ),
    errors=(416, 422), ours=True, reply_media=BYTES,
)  # fmt: skip
REPLICAS_DELETE = Call("replicas.delete", "DELETE", "/v2/images/{image_id}/regions/{slug}",
                       "Remove an image from one region; refused for the last one.", ("image:delete",),
                       {204: None}, errors=(422,), ours=True)  # fmt: skip
UPLOADS_CREATE = Call("uploads.create", "POST", "/v2/uploads", "Begin the upload of a disk image.", ("image:create",),
                      {201: m.UploadReply}, body=m.UploadCreateRequest, errors=(422,), ours=True)  # fmt: skip
UPLOADS_GET = Call("uploads.get", "GET", "/v2/uploads/{upload_id}", "How much of an upload is safely kept.",
                   ("image:create",), {200: m.UploadReply}, ours=True)  # fmt: skip
UPLOADS_APPEND = Call("uploads.append", "PATCH", "/v2/uploads/{upload_id}",
                      "Send the next bytes; after a break, read the offset and go on from there.",
                      ("image:create",), {200: m.UploadReply}, params=(UPLOAD_OFFSET,), errors=(422,),
                      ours=True, body_media=BYTES)  # fmt: skip
UPLOADS_FINISH = Call("uploads.finish", "POST", "/v2/uploads/{upload_id}/finish", "Import what was uploaded.",
                      ("image:create",), {202: m.ImageCreatedReply}, errors=(422,), ours=True)  # fmt: skip
UPLOADS_DELETE = Call("uploads.delete", "DELETE", "/v2/uploads/{upload_id}", "Give an upload up.", ("image:create",),
                      {204: None}, errors=(422,), ours=True)  # fmt: skip
COLLECT = Call("collect.create", "POST", "/v2/collect", "Remove from the stores what nobody holds.",
               ("image:delete",), {201: m.ActionReply, 200: m.CollectPlanReply}, body=m.CollectRequest,
               errors=(422,), ours=True)  # fmt: skip

# Controls for tests, in test mode only.

TEST_IMAGE = Call(
    "test.images.create", "POST", "/_wherry/images", "Make an image of any type from the bytes of the body.",
    ("image:create",), {201: m.ImageReply},
    params=(
        Param("type", "Which type.", values=("base", "snapshot", "backup", "custom", "admin"), required=True),
        Param("name", "The image's name.", required=True),
        Param("region", "Where it is made.", required=True),
        Param("distribution", "Its distribution."),
        Param("slug", "Make it public, under this slug."),
    ),
    errors=(422,), ours=True, test_mode=True, body_media=BYTES,
)  # fmt: skip
TEST_RESET = Call("test.reset", "POST", "/_wherry/reset", "Empty everything but the tokens.", ("image:delete",),
                  {204: None}, ours=True, test_mode=True)  # fmt: skip

CALLS: tuple[Call, ...] = (
    ACCOUNT_GET,
    IMAGES_LIST, IMAGES_CREATE, IMAGES_GET, IMAGES_UPDATE, IMAGES_DELETE,
    IMAGE_ACTIONS_LIST, IMAGE_ACTIONS_CREATE, IMAGE_ACTIONS_GET,
    ACTIONS_LIST, ACTIONS_GET,
    REGIONS_LIST, SIZES_LIST,
    SNAPSHOTS_LIST, SNAPSHOTS_GET, SNAPSHOTS_DELETE,
    ACTIONS_CANCEL, IMAGES_EXPORT, REPLICAS_DELETE,
    UPLOADS_CREATE, UPLOADS_GET, UPLOADS_APPEND, UPLOADS_FINISH, UPLOADS_DELETE,
    COLLECT, TEST_IMAGE, TEST_RESET,
)  # fmt: skip
"""Every call that wherry serves."""

SCOPES: tuple[str, ...] = tuple(sorted({scope for call in CALLS for scope in call.scopes} | {"tag:read"}))
"""Every scope that a token may be given. ``tag:read`` opens the field ``tags``."""

UNSERVED: tuple[tuple[str, str], ...] = (
    ("POST", "/v2/images/{image_id}/account_transfer"),
    ("POST", "/v2/images/{image_id}/account_transfer/accept"),
    ("POST", "/v2/images/{image_id}/account_transfer/cancel"),
    ("POST", "/v2/images/{image_id}/account_transfer/decline"),
    ("GET", "/v2/account/keys"),
    ("POST", "/v2/account/keys"),
    ("GET", "/v2/account/keys/{key}"),
    ("PUT", "/v2/account/keys/{key}"),
    ("DELETE", "/v2/account/keys/{key}"),
)
"""DigitalOcean's calls below a collection that wherry serves in part; they answer 501."""

UNSERVED_COLLECTIONS: frozenset[str] = frozenset({
    "1-clicks", "add-ons", "apps", "billing", "byoip_prefixes", "cdn", "certificates", "customers", "databases",
    "dedicated-inferences", "domains", "droplets", "firewalls", "floating_ips", "functions", "gen-ai", "kubernetes",
    "load_balancers", "monitoring", "nfs", "partner_network_connect", "projects", "registries", "registry", "reports",
    "reserved_ips", "reserved_ipv6", "security", "spaces", "tags", "uptime", "vector-databases", "volumes",
    "vpc_nat_gateways", "vpc_peerings", "vpcs",
})  # fmt: skip
"""DigitalOcean's collections (the first part of the path below ``/v2``) of which wherry serves nothing."""
