"""What the catalog hands out: frozen records. Times are aware datetimes in UTC with microseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from wherry.models import ActionError, Progress
    from wherry.server.rules.backup_policy import Policy
    from wherry.server.rules.dispatch import Lane

ResourceKind = Literal["image", "droplet"]
"""What actions work on and what can be tagged."""


@dataclass(frozen=True)
class AccountRecord:
    """Who owns images, actions and tokens."""

    id: int
    uuid: str
    email: str
    name: str
    droplet_limit: int


@dataclass(frozen=True)
class QuotaRecord:
    """How much of something an account may have at most, and how much it has."""

    limit: int
    used: int


@dataclass(frozen=True)
class TokenRecord:
    """A token, without its secret. ``scopes`` is None for full access."""

    id: int
    account_id: int
    name: str
    scopes: frozenset[str] | None
    created_at: datetime
    revoked_at: datetime | None

    def may(self, scope: str) -> bool:
        """Whether the token has this scope."""
        return self.scopes is None or scope in self.scopes


@dataclass(frozen=True)
class ImageRecord:
    """An image and where it is: ``regions`` in the order in which it came there.

    ``resource_id`` is the Droplet that a snapshot or backup was taken of; ``expires_at`` is when retention lets a
    backup go; ``min_disk_gib`` is that Droplet's disk, None where the image's own size counts.
    """

    id: int
    account_id: int
    name: str
    type: str
    distribution: str
    slug: str | None
    public: bool
    status: str
    error_message: str
    description: str | None
    created_at: datetime
    deleted_at: datetime | None
    virtual_bytes: int | None
    data_bytes: int | None
    fingerprint: str | None
    resource_id: int | None
    expires_at: datetime | None = None
    min_disk_gib: int | None = None
    regions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewAction:
    """An action that is about to be added.

    ``source`` is the region that a transfer reads. One in the ``background`` waits behind those that are not.
    """

    account_id: int | None
    image_id: int | None = None
    droplet_id: int | None = None
    region: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    background: bool = False
    started_at: datetime | None = None


@dataclass(frozen=True)
class ActionRecord:
    """An action. ``detail`` is what its steps must know besides the columns.

    ``process_id`` is who runs it, by the claim of number ``fence``; ``steps_done`` of its steps need not be run again.
    ``trace`` is the W3C traceparent of the request that began it.
    """

    id: int
    account_id: int | None
    type: str
    status: str
    resource_id: int | None
    resource_type: str | None
    region: str | None
    started_at: datetime
    completed_at: datetime | None
    error: ActionError | None
    progress: Progress | None
    attempts: int
    cancel_requested: bool
    lane: Lane
    detail: dict[str, Any] = field(default_factory=dict)
    process_id: int | None = None
    fence: int = 0
    steps_done: int = 0
    trace: str | None = None

    @property
    def is_running(self) -> bool:
        """Whether the action has not ended."""
        return self.status == "in-progress"

    @property
    def is_waiting(self) -> bool:
        """Whether the action waits for a worker."""
        return self.is_running and self.process_id is None

    @property
    def image_id(self) -> int:
        """The image the action works on."""
        assert self.resource_id is not None
        assert self.resource_type == "image"
        return self.resource_id

    @property
    def droplet_id(self) -> int:
        """The Droplet the action works on."""
        assert self.resource_id is not None
        assert self.resource_type == "droplet"
        return self.resource_id


@dataclass(frozen=True)
class ProcessRecord:
    """A process that serves or runs actions (``slots`` at a time). ``beats`` counts up while it lives."""

    id: int
    name: str
    slots: int
    beats: int


@dataclass(frozen=True)
class ObjectRecord:
    """A pack or a manifest in a region's store. ``action_id`` and ``number`` say who wrote it."""

    id: int
    region: str
    kind: str
    key: str
    bytes: int
    action_id: int
    number: int


@dataclass(frozen=True)
class ReplicaRecord:
    """An image's presence in one region."""

    id: int
    image_id: int
    region: str
    manifest_id: int
    manifest_key: str


@dataclass(frozen=True)
class ManifestRecord:
    """A manifest that a replica or a Droplet names."""

    id: int
    region: str
    key: str


@dataclass(frozen=True)
class DropletRecord:
    """A Droplet: its disk (a manifest in its region), what that was made from, and the facts of its machine.

    ``facts`` is what its creator asked for and wherry only keeps. ``backup_due_at`` is when the window of its next
    backup opens, ``backup_retry_at`` when one that errored is tried again. ``is_busy`` says whether an action of it is
    in progress.
    """

    id: int
    account_id: int
    name: str
    status: str
    region: str
    size: str
    is_gpu: bool
    image: ImageRecord
    manifest_id: int | None
    manifest_key: str
    virtual_bytes: int
    data_bytes: int
    fingerprint: str
    facts: dict[str, Any]
    policy: Policy | None
    backup_due_at: datetime | None
    backup_retry_at: datetime | None
    created_at: datetime
    is_busy: bool
    backup_ids: tuple[int, ...] = ()
    snapshot_ids: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class TagRecord:
    """A tag: how many resources of each kind have it, and which of each got it last, the very last one at the end."""

    id: int
    name: str
    counts: dict[ResourceKind, int]
    last: dict[ResourceKind, int]


@dataclass(frozen=True)
class SshKeyRecord:
    """A public key."""

    id: int
    account_id: int
    name: str
    public_key: str
    fingerprint: str


@dataclass(frozen=True)
class AccountTransferRecord:
    """An offer of an image to another account; ``status`` is pending, accepted, cancelled or declined."""

    id: int
    image_id: int
    sender_id: int
    recipient_id: int
    status: str


@dataclass(frozen=True)
class UploadRecord:
    """Bytes on their way in. ``received_bytes`` of the caller's are kept, in a spool of ``spooled_bytes``."""

    id: str
    account_id: int
    request: dict[str, Any]
    received_bytes: int
    spooled_bytes: int
    packed: bool
    status: str
    image_id: int | None
    action_id: int | None
    created_at: datetime
    touched_at: datetime


@dataclass(frozen=True)
class PieceRecord:
    """An object of ``bytes`` that keeps a part of an upload; it counts once its number is 0 or more."""

    upload_id: str
    number: int
    region: str
    key: str
    bytes: int


@dataclass(frozen=True)
class Garbage:
    """The unreferenced objects of a region."""

    region: str
    objects: int
    bytes: int


@dataclass(frozen=True)
class UnderusedPack:
    """A pack of which less is needed than was.

    ``most_bytes`` is how many stored bytes of it the one manifest uses that uses most, of those that a replica or a
    Droplet names; None if there is none.
    """

    pack: ObjectRecord
    most_bytes: int | None


@dataclass(frozen=True)
class ImageUsage:
    """What an image uses in a region: stored bytes of its blocks; what would be free without it; what others share."""

    region: str
    bytes: int
    exclusive_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class RegionUsage:
    """What is in a region's store, and how many bytes are in packs of which less is needed than was."""

    region: str
    objects: int
    bytes: int
    thinned_bytes: int


@dataclass(frozen=True)
class NamerRecord:
    """An image or a Droplet that names a manifest: whose it is, and the fingerprint that it says its disk has."""

    account_id: int
    fingerprint: str | None


@dataclass(frozen=True)
class DamagedRegion:
    """A region in which something is wrong with an image: the first blocks of its disk that are lost, and how many are.

    None are where a heal has not looked yet; -1 stands for all.
    """

    region: str
    blocks: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class HealthRecord:
    """How an image is. ``checked_at`` is the oldest check of what it needs; None if something never was."""

    checked_at: datetime | None
    damaged: tuple[DamagedRegion, ...]
