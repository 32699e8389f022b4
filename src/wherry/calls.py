"""The wire contract as data, for both sides: one row a call. No I/O.

The server binds each row to a handler, checks its scopes and writes its OpenAPI document from it; both faces of the
client take method, path and types from it. A new call is one row here, one handler, one test.

Paths, scopes, statuses and shapes of the rows that are not ``ours`` are DigitalOcean's (API v2, public specification).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

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
    ``errors`` are the statuses that the call may answer besides those that every call may (``COMMON_ERRORS``);
    ``refusals`` has the type of an error's body for a status where that is more than an ``ErrorReply``.
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
    refusals: dict[int, Any] = field(default_factory=dict[int, Any])
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
PER_PAGE = Param("per_page", "How many a page, 1 to 200 (default: 20); more counts as 200.", "integer")
PAGING = (PAGE, PER_PAGE)
IDEMPOTENCY_KEY = Param(
    "Idempotency-Key",
    "Up to 255 characters (ours). A repeat with the same key within 24 hours returns the first one's action.",
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

DROPLETS_LIST = Call(
    "droplets.list", "GET", "/v2/droplets", "List Droplets, newest first.", ("droplet:read",), {200: m.DropletPage},
    params=(
        Param("tag_name", "Only Droplets with this tag; excludes name and type."),
        Param("name", "Only Droplets of this name, in any case."),
        Param("type", "GPU Droplets, or all others (default).", values=("droplets", "gpus")),
        *PAGING,
    ),
    errors=(422,),
)  # fmt: skip
DROPLETS_CREATE = Call(
    "droplets.create", "POST", "/v2/droplets",
    "Create a Droplet, or up to ten that are alike. Needs ssh_key:read for ssh_keys and tag:create for tags as well.",
    ("droplet:create", "image:read"), {202: m.DropletCreatedReply}, body=m.DropletCreateRequest,
    params=(IDEMPOTENCY_KEY,), errors=(422,),
)  # fmt: skip
DROPLETS_GET = Call("droplets.get", "GET", "/v2/droplets/{droplet_id}", "Read a Droplet.", ("droplet:read",),
                    {200: m.DropletReply})  # fmt: skip
DROPLETS_DELETE = Call("droplets.delete", "DELETE", "/v2/droplets/{droplet_id}",
                       "Delete a Droplet and its backups; its snapshots stay.", ("droplet:delete",), {204: None},
                       errors=(422,))  # fmt: skip
DROPLETS_DELETE_TAGGED = Call(
    "droplets.delete_tagged", "DELETE", "/v2/droplets", "Delete all Droplets with a tag.",
    ("droplet:delete", "tag:read"), {204: None}, params=(Param("tag_name", "Which tag."),), errors=(422,),
)  # fmt: skip
DROPLET_SNAPSHOTS = Call("droplets.snapshots", "GET", "/v2/droplets/{droplet_id}/snapshots",
                         "List a Droplet's snapshots.", ("droplet:read",), {200: m.DropletSnapshotPage},
                         params=PAGING)  # fmt: skip
DROPLET_BACKUPS = Call("droplets.backups", "GET", "/v2/droplets/{droplet_id}/backups", "List a Droplet's backups.",
                       ("droplet:read",), {200: m.DropletBackupPage}, params=PAGING)  # fmt: skip

DROPLET_ACTIONS_LIST = Call("droplet_actions.list", "GET", "/v2/droplets/{droplet_id}/actions",
                            "List a Droplet's actions, newest first.", ("droplet:read",), {200: m.ActionPage},
                            params=PAGING)  # fmt: skip
DROPLET_ACTIONS_CREATE = Call(
    "droplet_actions.create", "POST", "/v2/droplets/{droplet_id}/actions",
    "Do something to a Droplet. Needs image:create for a snapshot, droplet:admin for restore and rebuild as well.",
    ("droplet:update",), {201: m.ActionReply}, body=m.DropletActionRequest, params=(IDEMPOTENCY_KEY,), errors=(422,),
)  # fmt: skip
DROPLET_ACTIONS_GET = Call("droplet_actions.get", "GET", "/v2/droplets/{droplet_id}/actions/{action_id}",
                           "Read an action of a Droplet.", ("droplet:read",), {200: m.ActionReply})  # fmt: skip
DROPLET_ACTIONS_CREATE_TAGGED = Call(
    "droplet_actions.create_tagged", "POST", "/v2/droplets/actions",
    "Do something to all Droplets with a tag: to all or to none. Needs image:create for a snapshot as well.",
    ("droplet:update",), {201: m.ActionsReply}, body=m.DropletActionRequest, params=(Param("tag_name", "Which tag."),),
    errors=(422,),
)  # fmt: skip

BACKUP_POLICY_GET = Call("backup_policies.get", "GET", "/v2/droplets/{droplet_id}/backups/policy",
                         "Read a Droplet's backup policy.", ("droplet:read",), {200: m.BackupPolicyReply})  # fmt: skip
BACKUP_POLICIES_LIST = Call("backup_policies.list", "GET", "/v2/droplets/backups/policies",
                            "List the backup policies of all Droplets that have one.", ("droplet:read",),
                            {200: m.BackupPolicyPage}, params=PAGING)  # fmt: skip
BACKUP_POLICIES_SUPPORTED = Call("backup_policies.supported", "GET", "/v2/droplets/backups/supported_policies",
                                 "List the backup plans that there are.", ("droplet:read",),
                                 {200: m.SupportedPoliciesReply})  # fmt: skip

TAGS_LIST = Call("tags.list", "GET", "/v2/tags", "List the tags.", ("tag:read",), {200: m.TagPage},
                 params=PAGING)  # fmt: skip
TAGS_CREATE = Call("tags.create", "POST", "/v2/tags", "Create a tag.", ("tag:create",), {201: m.TagReply},
                   body=m.TagCreateRequest, errors=(422,), refusals={400: m.TagErrorReply})  # fmt: skip
TAGS_GET = Call("tags.get", "GET", "/v2/tags/{tag}", "Read a tag.", ("tag:read",), {200: m.TagReply})
TAGS_DELETE = Call("tags.delete", "DELETE", "/v2/tags/{tag}", "Delete a tag; what had it loses it.", ("tag:delete",),
                   {204: None})  # fmt: skip
TAGS_ASSIGN = Call("tags.assign", "POST", "/v2/tags/{tag}/resources",
                   "Tag resources. Needs image:update or droplet:update as well.", ("tag:create",), {204: None},
                   body=m.TagResourcesRequest, errors=(422,))  # fmt: skip
TAGS_UNASSIGN = Call("tags.unassign", "DELETE", "/v2/tags/{tag}/resources",
                     "Take a tag from resources. Needs image:update or droplet:update as well.", ("tag:delete",),
                     {204: None}, body=m.TagResourcesRequest, errors=(422,))  # fmt: skip

SSH_KEYS_LIST = Call("ssh_keys.list", "GET", "/v2/account/keys", "List the SSH keys.", ("ssh_key:read",),
                     {200: m.SshKeyPage}, params=PAGING)  # fmt: skip
SSH_KEYS_CREATE = Call("ssh_keys.create", "POST", "/v2/account/keys", "Keep a public key.", ("ssh_key:create",),
                       {201: m.SshKeyReply}, body=m.SshKeyCreateRequest, errors=(422,))  # fmt: skip
SSH_KEYS_GET = Call("ssh_keys.get", "GET", "/v2/account/keys/{key}", "Read a key, by its id or fingerprint.",
                    ("ssh_key:read",), {200: m.SshKeyReply})  # fmt: skip
SSH_KEYS_UPDATE = Call("ssh_keys.update", "PUT", "/v2/account/keys/{key}", "Rename a key.", ("ssh_key:update",),
                       {200: m.SshKeyReply}, body=m.SshKeyUpdateRequest, errors=(422,))  # fmt: skip
SSH_KEYS_DELETE = Call("ssh_keys.delete", "DELETE", "/v2/account/keys/{key}", "Forget a key.", ("ssh_key:delete",),
                       {204: None})  # fmt: skip

FIREWALLS_LIST = Call("firewalls.list", "GET", "/v2/firewalls", "List the firewalls, of which there are none.",
                      ("firewall:read",), {200: m.FirewallPage}, params=PAGING)  # fmt: skip

ACCOUNT_TRANSFERS_CREATE = Call(
    "account_transfers.create", "POST", "/v2/images/{image_id}/account_transfer",
    "Offer a snapshot to another account, by the e-mail of its owner or the UUID of its team.",
    ("image:update", "image:delete"), {201: m.AccountTransferReply}, body=m.AccountTransferRequest, errors=(422,),
)  # fmt: skip
ACCOUNT_TRANSFERS_ACCEPT = Call(
    "account_transfers.accept", "POST", "/v2/images/{image_id}/account_transfer/accept",
    "Take an image that was offered; it is the caller's from then on.", ("image:create",), {201: None},
    body=m.AccountTransferAnswer, errors=(422,),
)  # fmt: skip
ACCOUNT_TRANSFERS_CANCEL = Call(
    "account_transfers.cancel", "POST", "/v2/images/{image_id}/account_transfer/cancel", "Take an offer back.",
    ("image:update",), {204: None}, body=m.AccountTransferAnswer, errors=(422,),
)  # fmt: skip
ACCOUNT_TRANSFERS_DECLINE = Call(
    "account_transfers.decline", "POST", "/v2/images/{image_id}/account_transfer/decline", "Refuse an offer.",
    ("image:create",), {204: None}, body=m.AccountTransferAnswer, errors=(422,),
)  # fmt: skip

# Ours, beside the contract: paths that a client of DigitalOcean never calls.

ACTIONS_CANCEL = Call("actions.cancel", "POST", "/v2/actions/{action_id}/cancel",
                      "Ask that an action stop; it then ends as errored with the code cancelled. "
                      "Needs image:update or droplet:update as well, by what the action is done to.",
                      ("actions:read",), {200: m.ActionReply}, errors=(422,), ours=True)  # fmt: skip
EXPORT_FORMAT = Param("format", "Which format (default: raw).", values=get_args(m.ExportFormat))
EXPORT_COMPRESS = Param("compress", "Compress a raw export while it is sent: then it has no ranges and no size.",
                        values=get_args(m.Compression))  # fmt: skip
EXPORT_REGION = Param("region", "Read this region's copy (default: the first region's).")
IMAGES_EXPORT = Call(
    "images.export", "GET", "/v2/images/{image_id}/export", "Read an image's bytes, checked on the way.",
    ("image:read",), {200: None, 206: None},
    params=(
        EXPORT_FORMAT,
        EXPORT_COMPRESS,
        EXPORT_REGION,
        RANGE,
    ),
    errors=(416, 422), ours=True, reply_media=BYTES,
)  # fmt: skip
IMAGE_BLOCKS_LIST = Call(
    "image_blocks.list", "GET", "/v2/images/{image_id}/blocks",
    "List an image's blocks: their names in order, 32 bytes each, all zeros for a block of zeros. The header "
    "Wherry-Size has the disk's bytes.",
    ("image:read",), {200: None}, params=(EXPORT_REGION,), errors=(422,), ours=True, reply_media=BYTES,
)  # fmt: skip
IMAGE_BLOCKS_READ = Call(
    "image_blocks.read", "GET", "/v2/images/{image_id}/blocks/{numbers}",
    "Read blocks of an image as they are stored, as records one after another. The numbers ascend, as in 0-63,70; "
    "at most 4,096 blocks. Blocks of zeros are left out.",
    ("image:read",), {200: None}, params=(EXPORT_REGION,), errors=(422,), ours=True, reply_media=BYTES,
)  # fmt: skip
REPLICAS_DELETE = Call("replicas.delete", "DELETE", "/v2/images/{image_id}/regions/{slug}",
                       "Remove an image from one region; refused for the last one.", ("image:delete",),
                       {204: None}, errors=(422,), ours=True)  # fmt: skip
IMAGES_VERIFY = Call(
    "images.verify", "POST", "/v2/images/{image_id}/verify",
    "Check every stored byte of an image, in all its regions or in one; what is damaged is healed afterwards.",
    ("image:update",), {201: m.ActionReply}, body=m.VerifyRequest, errors=(422,), ours=True,
)  # fmt: skip
UPLOADS_CREATE = Call("uploads.create", "POST", "/v2/uploads",
                      "Begin the upload of a disk image. For a Droplet's disk it needs droplet:update as well.",
                      ("image:create",),
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
UPLOAD_BLOCKS_MISSING = Call(
    "upload_blocks.missing", "PUT", "/v2/uploads/{upload_id}/missing",
    "Ask which of these blocks of a disk must be sent: at most 10,000. The upload holds the others from then on. "
    "The account's own and the public images in the region are looked at.",
    ("image:create",), {200: m.MissingBlocksReply}, body=m.BlockNamesRequest, errors=(422,), ours=True,
)  # fmt: skip
UPLOAD_BLOCKS_PUT = Call(
    "upload_blocks.put", "PUT", "/v2/uploads/{upload_id}/blocks/{number}",
    "Send blocks, as records one after another: at most 4,096, and 60 MiB. The number is any, another for each batch. "
    "What came whole before a break is kept.",
    ("image:create",), {200: m.UploadReply}, errors=(422,), ours=True, body_media=BYTES,
)  # fmt: skip
UPLOAD_DISK_PUT = Call(
    "upload_disk.put", "PUT", "/v2/uploads/{upload_id}/disk",
    "Say what the disk is: the names of its blocks in order, 32 bytes each, all zeros for a block of zeros.",
    ("image:create",), {200: m.UploadReply},
    params=(
        Param("size", "The disk's bytes: whole sectors of 512. It is needed.", "integer"),
        Param("format", "Says that the disk is raw, whatever it looks like.", values=("raw",)),
    ),
    errors=(413, 422), ours=True, body_media=BYTES,
)  # fmt: skip
COLLECT = Call("collect.create", "POST", "/v2/collect",
               "Remove unreferenced objects from the stores. For the operator's account.",
               ("image:delete",), {201: m.ActionReply, 200: m.CollectPlanReply}, body=m.CollectRequest,
               errors=(422,), ours=True)  # fmt: skip
COMPACT = Call("compact.create", "POST", "/v2/compact",
               "Rewrite packs of which less than half is needed. For the operator's account.",
               ("image:delete",), {201: m.ActionReply, 200: m.CompactPlanReply}, body=m.CompactRequest,
               errors=(422,), ours=True)  # fmt: skip
IMAGE_USAGE = Call("images.usage", "GET", "/v2/images/{image_id}/usage",
                   "How much of the stores an image uses, and how much of that would be free without it.",
                   ("image:read",), {200: m.ImageUsageReply}, ours=True)  # fmt: skip
USAGE = Call("usage.list", "GET", "/v2/usage", "What is in the stores, by region; for the operator.",
             ("image:read",), {200: m.UsageReply}, ours=True)  # fmt: skip
EXPIRE = Call("expire.create", "POST", "/v2/expire",
              "Delete expired backups of all accounts. For the operator's account; a dry run is for any, with its own.",
              ("image:delete",), {201: m.ActionReply, 200: m.ExpiryPlanReply}, body=m.ExpireRequest,
              errors=(422,), ours=True)  # fmt: skip
SCRUB = Call("scrub.create", "POST", "/v2/scrub",
             "Check every stored byte of a region; what is damaged is healed afterwards. For the operator's account.",
             ("image:update",), {201: m.ActionReply}, body=m.ScrubRequest, errors=(422,), ours=True)  # fmt: skip
DISK_EXPORT = Call(
    "disks.export", "GET", "/v2/droplets/{droplet_id}/disk", "Read a Droplet's disk, checked on the way.",
    ("droplet:read",), {200: None, 206: None}, params=(EXPORT_FORMAT, EXPORT_COMPRESS, RANGE),
    errors=(416, 422), ours=True, reply_media=BYTES,
)  # fmt: skip
DISK_IMPORT = Call(
    "disks.import", "PUT", "/v2/droplets/{droplet_id}/disk",
    "Replace a Droplet's disk by the body's bytes, or by those of an upload that was begun for it.",
    ("droplet:update",), {201: m.ActionReply},
    params=(
        Param("upload_id", "Which upload; then the body stays empty."),
        Param("format", "Take the body as this, whatever it looks like; an upload's own request says it.",
              values=("raw",)),
        IDEMPOTENCY_KEY,
    ),
    errors=(422,), ours=True, body_media=BYTES,
)  # fmt: skip

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
TEST_BACKUP = Call("test.backups.create", "POST", "/_wherry/droplets/{droplet_id}/backup",
                   "Take a backup of a Droplet now, whatever its policy.", ("droplet:update",), {201: m.ActionReply},
                   errors=(422,), ours=True, test_mode=True)  # fmt: skip
TEST_CLOCK = Call(
    "test.clock", "POST", "/_wherry/clock",
    "Set the clock, or move it ahead: then all that falls due on the way happens at its time.", ("droplet:update",),
    {200: m.ClockReply}, body=m.ClockRequest, errors=(422,), ours=True, test_mode=True,
)  # fmt: skip
TEST_FAULTS = Call("test.faults", "POST", "/_wherry/faults", "Let the next actions of a type fail.",
                   ("droplet:update",), {204: None}, body=m.FaultRequest, errors=(422,), ours=True,
                   test_mode=True)  # fmt: skip

CALLS: tuple[Call, ...] = (
    ACCOUNT_GET,
    IMAGES_LIST, IMAGES_CREATE, IMAGES_GET, IMAGES_UPDATE, IMAGES_DELETE,
    IMAGE_ACTIONS_LIST, IMAGE_ACTIONS_CREATE, IMAGE_ACTIONS_GET,
    ACTIONS_LIST, ACTIONS_GET,
    REGIONS_LIST, SIZES_LIST,
    SNAPSHOTS_LIST, SNAPSHOTS_GET, SNAPSHOTS_DELETE,
    DROPLETS_LIST, DROPLETS_CREATE, DROPLETS_DELETE_TAGGED, DROPLET_ACTIONS_CREATE_TAGGED,
    BACKUP_POLICIES_LIST, BACKUP_POLICIES_SUPPORTED,
    DROPLETS_GET, DROPLETS_DELETE, DROPLET_SNAPSHOTS, DROPLET_BACKUPS, BACKUP_POLICY_GET,
    DROPLET_ACTIONS_LIST, DROPLET_ACTIONS_CREATE, DROPLET_ACTIONS_GET,
    TAGS_LIST, TAGS_CREATE, TAGS_GET, TAGS_DELETE, TAGS_ASSIGN, TAGS_UNASSIGN,
    SSH_KEYS_LIST, SSH_KEYS_CREATE, SSH_KEYS_GET, SSH_KEYS_UPDATE, SSH_KEYS_DELETE,
    FIREWALLS_LIST,
    ACCOUNT_TRANSFERS_CREATE, ACCOUNT_TRANSFERS_ACCEPT, ACCOUNT_TRANSFERS_CANCEL, ACCOUNT_TRANSFERS_DECLINE,
    ACTIONS_CANCEL, IMAGES_EXPORT, IMAGE_BLOCKS_LIST, IMAGE_BLOCKS_READ, REPLICAS_DELETE,
    IMAGES_VERIFY, SCRUB,
    UPLOADS_CREATE, UPLOADS_GET, UPLOADS_APPEND, UPLOADS_FINISH, UPLOADS_DELETE,
    UPLOAD_BLOCKS_MISSING, UPLOAD_BLOCKS_PUT, UPLOAD_DISK_PUT,
    COLLECT, COMPACT, IMAGE_USAGE, USAGE,
    EXPIRE, DISK_EXPORT, DISK_IMPORT,
    TEST_IMAGE, TEST_RESET, TEST_BACKUP, TEST_CLOCK, TEST_FAULTS,
)  # fmt: skip
"""Every call that wherry serves."""

SCOPES: tuple[str, ...] = tuple(sorted({scope for call in CALLS for scope in call.scopes} | {"droplet:admin"}))
"""Every scope that a token may be given. Some calls need more for a part of what may be asked of them."""

UNSERVED: tuple[tuple[str, str], ...] = (
    ("POST", "/v2/firewalls"),
    ("GET", "/v2/droplets/{droplet_id}/kernels"),
    ("GET", "/v2/droplets/{droplet_id}/firewalls"),
    ("GET", "/v2/droplets/{droplet_id}/neighbors"),
    ("GET", "/v2/droplets/{droplet_id}/destroy_with_associated_resources"),
    ("GET", "/v2/reports/droplet_neighbors_ids"),
)
"""DigitalOcean's calls below a collection that wherry serves in part; they answer 501."""

UNSERVED_COLLECTIONS: frozenset[str] = frozenset({
    "1-clicks", "add-ons", "apps", "billing", "byoip_prefixes", "cdn", "certificates", "customers", "databases",
    "dedicated-inferences", "domains", "floating_ips", "functions", "gen-ai", "kubernetes", "load_balancers",
    "monitoring", "nfs", "partner_network_connect", "projects", "registries", "registry", "reports", "reserved_ips",
    "reserved_ipv6", "security", "spaces", "uptime", "vector-databases", "volumes", "vpc_nat_gateways",
    "vpc_peerings", "vpcs",
})  # fmt: skip
"""DigitalOcean's collections (the first part of the path below ``/v2``) of which wherry serves nothing."""
