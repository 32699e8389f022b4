"""Every shape on the wire, for both sides.

Objects and field names are DigitalOcean's (API v2, public specification); what is ours is marked so and stands beside
them. Status and type are open strings, unknown fields are ignored and every field that may be null or missing has a
default, so that a client reads replies of wherry and of DigitalOcean alike. Times are UTC and have whole seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

TransferType = Literal["transfer"]
ConvertType = Literal["convert"]
ExportFormat = Literal["raw", "qcow2"]
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Model(Struct, frozen=True):
    """What all shapes have in common: immutable, unknown fields ignored. ``kw_only`` is not inherited."""


# ---------------------------------------------------------------------------------------------------------- objects


class Region(Model, frozen=True, kw_only=True):
    """A place with a slug and a store. ``sizes`` is empty where the token may not read sizes."""

    name: str
    slug: str
    features: list[str] = field(default_factory=list[str])
    available: bool = True
    sizes: list[str] = field(default_factory=list[str])


class ActionError(Model, frozen=True, kw_only=True):
    """Why an action errored (ours). ``code`` is for programs, ``message`` and ``hint`` are for people."""

    code: str
    message: str
    stage: str | None = None
    retryable: bool = False
    hint: str = ""


class Progress(Model, frozen=True, kw_only=True):
    """How far an action is (ours). Bytes are as stored: compressed, each block once.

    ``stage`` is the step in work; ``percent`` counts the whole action from 0 to 100 and is None while the size is not
    known; ``rate_bytes_per_s`` and ``eta_s`` are None until there is something to reckon with; ``waiting_for`` says
    what an action that stands still waits for.
    """

    stage: str
    percent: float | None = None
    blocks_total: int | None = None
    blocks_reused: int = 0
    blocks_sent: int = 0
    bytes_total: int | None = None
    bytes_reused: int = 0
    bytes_sent: int = 0
    rate_bytes_per_s: float | None = None
    eta_s: float | None = None
    heartbeat_at: Time | None = None
    waiting_for: str | None = None


class Action(Model, frozen=True, kw_only=True):
    """The durable record of something that takes time.

    ``status`` is ``in-progress``, ``completed`` or ``errored``. ``region`` of a transfer is its destination.
    ``error`` and ``progress`` are ours.
    """

    id: int
    status: str
    type: str
    started_at: Time | None = None
    completed_at: Time | None = None
    resource_id: int | None = None
    resource_type: str | None = None
    region: Region | None = None
    region_slug: str | None = None
    error: ActionError | None = None
    progress: Progress | None = None


class Image(Model, frozen=True, kw_only=True):
    """A bootable disk and its facts.

    ``status`` is ``NEW``, ``pending``, ``available``, ``deleted`` or ``retired``; ``error_message`` says why an import
    failed. ``min_disk_size`` is in GiB, rounded up; ``size_gigabytes`` is what the image's data takes, in GiB.
    """

    id: int
    name: str
    type: str
    distribution: str = "Unknown"
    slug: str | None = None
    public: bool = False
    regions: list[str] = field(default_factory=list[str])
    created_at: Time | None = None
    min_disk_size: int | None = None
    size_gigabytes: float | None = None
    description: str | None = None
    tags: list[str] | None = None
    status: str = "available"
    error_message: str | None = None


class Amount(Model, frozen=True, kw_only=True):
    """A number and its unit."""

    amount: float
    unit: str


class DiskInfo(Model, frozen=True, kw_only=True):
    """A disk that a size brings."""

    type: str
    size: Amount


class GpuInfo(Model, frozen=True, kw_only=True):
    """The GPUs that a size brings."""

    count: int
    model: str
    vram: Amount


class Size(Model, frozen=True, kw_only=True):
    """A kind of Droplet: memory in MiB, disk in GiB, transfer in TiB, prices in US dollars."""

    slug: str
    memory: int
    vcpus: int
    disk: int
    transfer: float
    price_monthly: float
    price_hourly: float
    regions: list[str] = field(default_factory=list[str])
    available: bool = True
    description: str = ""
    disk_info: list[DiskInfo] = field(default_factory=list[DiskInfo])
    gpu_info: GpuInfo | UnsetType = UNSET


class Snapshot(Model, frozen=True, kw_only=True):
    """A snapshot of a Droplet. ``id`` is the image's id, as a string here."""

    id: str
    name: str
    created_at: Time
    regions: list[str]
    min_disk_size: int
    size_gigabytes: float
    resource_id: str
    resource_type: str
    tags: list[str] | None = None


class Team(Model, frozen=True, kw_only=True):
    """The team an account belongs to."""

    uuid: str
    name: str


class Account(Model, frozen=True, kw_only=True):
    """Who the token belongs to, and its limits."""

    droplet_limit: int
    floating_ip_limit: int
    email: str
    uuid: str
    email_verified: bool
    status: str
    status_message: str
    name: str | None = None
    team: Team | None = None
    reserved_ip_limit: int = 0
    volume_limit: int = 0


class TransferPlan(Model, frozen=True, kw_only=True):
    """What a transfer would do (ours): blocks and stored bytes in all, already there, and to be sent."""

    region: str
    blocks_total: int
    blocks_reused: int
    blocks_to_send: int
    bytes_total: int
    bytes_reused: int
    bytes_to_send: int


class Upload(Model, frozen=True, kw_only=True):
    """Bytes of a disk image on their way into an import (ours). ``offset`` is how many bytes are safely kept."""

    id: str
    name: str
    region: str
    offset: int
    status: str
    image_id: int | None = None


class CollectPlan(Model, frozen=True, kw_only=True):
    """What nobody holds, so that ``collect`` would remove it (ours)."""

    region: str
    objects: int
    bytes: int


# --------------------------------------------------------------------------------------------------------- requests


class TransferRequest(Model, frozen=True, kw_only=True, tag_field="type", tag="transfer"):
    """Ask for an image in a further region. ``regions`` and ``dry_run`` are ours."""

    region: str | None = None
    regions: list[str] | None = None
    dry_run: bool | None = None


class ConvertRequest(Model, frozen=True, kw_only=True, tag_field="type", tag="convert"):
    """Ask that a backup become a snapshot."""


ImageActionRequest = TransferRequest | ConvertRequest


class ImageCreateRequest(Model, frozen=True, kw_only=True):
    """Ask for a custom image, imported from a URL."""

    name: str | None = None
    url: str | None = None
    region: str | None = None
    distribution: str | None = None
    description: str | None = None
    tags: list[str] | None = None


class ImageUpdateRequest(Model, frozen=True, kw_only=True):
    """Change an image's name, or a custom image's distribution and description. What is None stays."""

    name: str | None = None
    distribution: str | None = None
    description: str | None = None


class UploadCreateRequest(Model, frozen=True, kw_only=True):
    """Begin an upload (ours): a custom image whose bytes the caller sends."""

    name: str | None = None
    region: str | None = None
    distribution: str | None = None
    description: str | None = None
    tags: list[str] | None = None


class CollectRequest(Model, frozen=True, kw_only=True):
    """Remove what nobody holds (ours), in all regions or one; with ``dry_run`` only say what that would be."""

    region: str | None = None
    dry_run: bool | None = None


# ---------------------------------------------------------------------------------------------------------- replies


class Pages(Model, frozen=True, kw_only=True, omit_defaults=True):
    """Absolute URLs of the neighbouring pages; one that does not exist is left out, never null."""

    first: str | UnsetType = UNSET
    prev: str | UnsetType = UNSET
    next: str | UnsetType = UNSET
    last: str | UnsetType = UNSET


class Links(Model, frozen=True, kw_only=True):
    """Where a list goes on. Without ``pages`` there is one page only."""

    pages: Pages | UnsetType = UNSET


class Meta(Model, frozen=True, kw_only=True):
    """``total`` counts all pages."""

    total: int


class Page(Model, frozen=True, kw_only=True):
    """What every list has beside its items."""

    links: Links | None = None
    meta: Meta | None = None


class ImagePage(Page, frozen=True, kw_only=True):
    """A page of images."""

    images: list[Image]


class ActionPage(Page, frozen=True, kw_only=True):
    """A page of actions, newest first."""

    actions: list[Action]


class RegionPage(Page, frozen=True, kw_only=True):
    """A page of regions."""

    regions: list[Region]


class SizePage(Page, frozen=True, kw_only=True):
    """A page of sizes."""

    sizes: list[Size]


class SnapshotPage(Page, frozen=True, kw_only=True):
    """A page of snapshots."""

    snapshots: list[Snapshot]


class ImageReply(Model, frozen=True, kw_only=True):
    """An image, wrapped."""

    image: Image


class ActionLink(Model, frozen=True, kw_only=True):
    """Where the action that a call began can be read."""

    id: int
    rel: str
    href: str


class CreatedLinks(Model, frozen=True, kw_only=True):
    """The actions that a call began (ours, in the shape of DigitalOcean's Droplet create)."""

    actions: list[ActionLink]


class ImageCreatedReply(ImageReply, frozen=True, kw_only=True):
    """A custom image that is being imported. ``links`` leads to the import's action (ours)."""

    links: CreatedLinks


class ActionReply(Model, frozen=True, kw_only=True):
    """An action, wrapped."""

    action: Action


class ImageActionReply(Action, frozen=True, kw_only=True):
    """An image action: its fields at the top level and the same object under ``action``.

    Generated clients read the top level, hand-written ones ``action``; so both are sent. ``actions`` (ours) holds one
    action per region where several were asked for.
    """

    action: Action
    actions: list[Action] | UnsetType = UNSET


class TransferPlanReply(Model, frozen=True, kw_only=True):
    """What a transfer would do (ours)."""

    plan: TransferPlan


class SnapshotReply(Model, frozen=True, kw_only=True):
    """A snapshot, wrapped."""

    snapshot: Snapshot


class AccountReply(Model, frozen=True, kw_only=True):
    """An account, wrapped."""

    account: Account


class UploadReply(Model, frozen=True, kw_only=True):
    """An upload, wrapped (ours)."""

    upload: Upload


class CollectPlanReply(Model, frozen=True, kw_only=True):
    """What ``collect`` would remove, by region (ours)."""

    plan: list[CollectPlan]


class ErrorReply(Model, frozen=True, kw_only=True):
    """Every error. ``id`` is for programs, ``message`` for people, ``request_id`` finds it in the service's log."""

    id: str
    message: str
    request_id: str | None = None
