"""What the catalog hands out: frozen records. Times are aware datetimes in UTC with microseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from wherry.models import ActionError, Progress


@dataclass(frozen=True)
class AccountRecord:
    """Who owns images, actions and tokens."""

    id: int
    uuid: str
    email: str
    name: str


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
    """An image and where it is: ``regions`` in the order in which it came there."""

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
    regions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class ActionRecord:
    """An action. ``detail`` is what its workflow must know besides the columns."""

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
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        """Whether the action has not ended."""
        return self.status == "in-progress"

    @property
    def image_id(self) -> int:
        """The image the action works on."""
        assert self.resource_id is not None
        assert self.resource_type == "image"
        return self.resource_id


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
    manifest_key: str


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
    created_at: datetime


@dataclass(frozen=True)
class Garbage:
    """What nobody holds in a region."""

    region: str
    objects: int
    bytes: int
