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
ExportFormat = Literal["raw", "qcow2", "vmdk", "vdi", "vhdx"]
Compression = Literal["zstd", "gzip"]
ImportFormat = Literal["raw"]
Time = Annotated[datetime, msgspec.Meta(tz=True)]

# The caps of what a request may have, in characters and items: DigitalOcean's where it has one, else ours.
Short = Annotated[str, msgspec.Meta(max_length=255)]
Description = Annotated[str, msgspec.Meta(max_length=4096)]
Url = Annotated[str, msgspec.Meta(max_length=8192)]
PublicKey = Annotated[str, msgspec.Meta(max_length=16 << 10)]
UserData = Annotated[str, msgspec.Meta(max_length=64 << 10)]
Tags = Annotated[list[Short], msgspec.Meta(max_length=100)]
Regions = Annotated[list[Short], msgspec.Meta(max_length=100)]
DropletNames = Annotated[list[Short], msgspec.Meta(max_length=10)]
SshKeys = Annotated[list[int | Short], msgspec.Meta(max_length=100)]
Headers = Annotated[dict[Short, Annotated[str, msgspec.Meta(max_length=8192)]], msgspec.Meta(max_length=100)]
BlockNames = Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=10_000)]
Volume = Short | Annotated[dict[Short, Short], msgspec.Meta(max_length=10)]
Volumes = Annotated[list[Volume], msgspec.Meta(max_length=15)]


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
    what an action that stands still waits for. ``bytes_freed`` is what left a store or may leave it now, and
    ``bytes_left`` what an action with a budget leaves for the next one. ``format`` is what an imported disk came as.
    """

    stage: str
    percent: float | None = None
    blocks_total: int | None = None
    blocks_reused: int = 0
    blocks_sent: int = 0
    bytes_total: int | None = None
    bytes_reused: int = 0
    bytes_sent: int = 0
    bytes_freed: int = 0
    bytes_left: int | None = None
    rate_bytes_per_s: float | None = None
    eta_s: float | None = None
    heartbeat_at: Time | None = None
    waiting_for: str | None = None
    format: str | None = None


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


class ByteRange(Model, frozen=True, kw_only=True):
    """Bytes of a disk, from ``start`` on, before ``end`` (ours)."""

    start: int
    end: int


class Damage(Model, frozen=True, kw_only=True):
    """What is wrong with an image in a region (ours): blocks of its disk of which no good copy was found.

    ``blocks`` has the first 100 by their numbers and ``ranges`` says which bytes those are; ``count`` is how many there
    are in all. It is 0 where something is damaged that is yet to be healed.
    """

    region: str
    blocks: list[int] = field(default_factory=list[int])
    ranges: list[ByteRange] = field(default_factory=list[ByteRange])
    count: int = 0


class Health(Model, frozen=True, kw_only=True):
    """How an image's stored bytes are (ours). ``state`` is ``whole``, ``damaged`` or ``unchecked``.

    ``checked_at`` is when the part of it that was checked the longest ago was read in full; None if some never was.
    """

    state: str
    checked_at: Time | None = None
    damaged: list[Damage] = field(default_factory=list[Damage])


class Image(Model, frozen=True, kw_only=True):
    """A bootable disk and its facts.

    ``status`` is ``NEW``, ``pending``, ``available``, ``deleted`` or ``retired``; ``error_message`` says why an import
    failed. ``min_disk_size`` is in GiB, rounded up; ``size_gigabytes`` is what the image's data takes, in GiB.
    ``health`` is ours, and there only where one image is read.
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
    health: Health | UnsetType = UNSET


class Amount(Model, frozen=True, kw_only=True):
    """A whole number and its unit."""

    amount: int
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


class BackupWindow(Model, frozen=True, kw_only=True):
    """When the next backup of a Droplet is taken: from ``start`` on, before ``end``."""

    start: Time
    end: Time


class BackupPolicy(Model, frozen=True, kw_only=True):
    """When backups are taken and how long each is kept. ``hour`` is in UTC; ``weekday`` is SUN to SAT, weekly only."""

    plan: str
    weekday: str | UnsetType = UNSET
    hour: int = 0
    window_length_hours: int = 4
    retention_period_days: int = 7


class BackupPolicyRecord(Model, frozen=True, kw_only=True):
    """A Droplet's backup policy; without backups, only that there are none."""

    droplet_id: int
    backup_enabled: bool
    backup_policy: BackupPolicy | UnsetType = UNSET
    next_backup_window: BackupWindow | UnsetType | None = UNSET


class SupportedBackupPolicy(Model, frozen=True, kw_only=True):
    """A plan that Droplets may be backed up by."""

    name: str
    possible_window_starts: list[int]
    window_length_hours: int
    retention_period_days: int
    possible_days: list[str]


class NetworkV4(Model, frozen=True, kw_only=True):
    """An IPv4 address of a Droplet; ``type`` is public or private."""

    ip_address: str
    netmask: str
    gateway: str
    type: str


class NetworkV6(Model, frozen=True, kw_only=True):
    """An IPv6 address of a Droplet. ``netmask`` is the length of the prefix."""

    ip_address: str
    netmask: int
    gateway: str
    type: str


class Networks(Model, frozen=True, kw_only=True):
    """A Droplet's addresses; none while it is new."""

    v4: list[NetworkV4] = field(default_factory=list[NetworkV4])
    v6: list[NetworkV6] = field(default_factory=list[NetworkV6])


class Droplet(Model, frozen=True, kw_only=True):
    """A machine's disk and its facts: memory in MiB, disk in GiB.

    ``status`` is ``new``, ``active``, ``off`` or ``archive``; ``locked`` while an action runs. ``image`` is what the
    disk was made from.
    """

    id: int
    name: str
    memory: int
    vcpus: int
    disk: int
    locked: bool
    status: str
    created_at: Time
    image: Image
    size: Size
    size_slug: str
    region: Region
    kernel: None = None
    features: list[str] = field(default_factory=list[str])
    backup_ids: list[int] = field(default_factory=list[int])
    next_backup_window: BackupWindow | None = None
    snapshot_ids: list[int] = field(default_factory=list[int])
    volume_ids: list[str] = field(default_factory=list[str])
    networks: Networks = field(default_factory=Networks)
    tags: list[str] = field(default_factory=list[str])
    disk_info: list[DiskInfo] = field(default_factory=list[DiskInfo])
    vpc_uuid: str | UnsetType = UNSET
    gpu_info: GpuInfo | UnsetType = UNSET


class TaggedResources(Model, frozen=True, kw_only=True, omit_defaults=True):
    """How many resources of one kind have a tag, and the last one that got it."""

    count: int
    last_tagged_uri: str | UnsetType = UNSET


class TagResources(Model, frozen=True, kw_only=True):
    """How many resources have a tag, in all and by kind."""

    count: int
    droplets: TaggedResources
    images: TaggedResources
    volumes: TaggedResources
    volume_snapshots: TaggedResources
    databases: TaggedResources
    last_tagged_uri: str | UnsetType = UNSET


class Tag(Model, frozen=True, kw_only=True):
    """A word that resources are found by."""

    name: str
    resources: TagResources


class SshKey(Model, frozen=True, kw_only=True):
    """A public key. ``fingerprint`` is the MD5 of the key, in pairs of hexadecimal digits."""

    id: int
    fingerprint: str
    public_key: str
    name: str


class ExpiryPlan(Model, frozen=True, kw_only=True):
    """A backup whose time is over, so that ``expire`` lets it go (ours)."""

    image_id: int
    name: str
    droplet_id: int
    created_at: Time
    expires_at: Time


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
    """Bytes of a disk image on their way into an import (ours). ``offset`` is how many bytes are safely kept.

    ``image_id`` is the image they became, ``droplet_id`` the Droplet whose disk they are meant for. An upload by blocks
    has a ``block_size``, and its ``offset`` counts stored bytes.
    """

    id: str
    name: str
    region: str
    offset: int
    status: str
    image_id: int | None = None
    droplet_id: int | None = None
    block_size: int | None = None


class CollectPlan(Model, frozen=True, kw_only=True):
    """The unreferenced objects that ``collect`` would remove (ours)."""

    region: str
    objects: int
    bytes: int


class CompactPlan(Model, frozen=True, kw_only=True):
    """What ``compact`` would rewrite in a region (ours): packs of which less than half is needed.

    ``bytes_to_rewrite`` is what is needed of them, ``bytes_freed`` how much smaller the store would be.
    """

    region: str
    packs: int
    bytes_to_rewrite: int
    bytes_freed: int


class ImageUsage(Model, frozen=True, kw_only=True):
    """What an image uses in a region, in stored bytes (ours).

    ``bytes`` is what its blocks take, each once; ``shared_bytes`` is the part of that in packs which others need, too.
    ``exclusive_bytes`` would be free without the image: its manifest, and whole packs that no other image needs.
    """

    region: str
    bytes: int
    exclusive_bytes: int
    shared_bytes: int


class RegionUsage(Model, frozen=True, kw_only=True):
    """What is in a region's store (ours).

    ``reclaimable_bytes`` of ``bytes`` are unreferenced: ``collect`` removes them. ``thinned_bytes`` are packs of which
    less is needed than was, and ``compact`` makes them smaller if that is less than half.
    """

    region: str
    objects: int
    bytes: int
    reclaimable_bytes: int
    thinned_bytes: int


# --------------------------------------------------------------------------------------------------------- requests


class TransferRequest(Model, frozen=True, kw_only=True, tag_field="type", tag="transfer"):
    """Ask for an image in a further region. ``regions`` and ``dry_run`` are ours."""

    region: Short | None = None
    regions: Regions | None = None
    dry_run: bool | None = None


class ConvertRequest(Model, frozen=True, kw_only=True, tag_field="type", tag="convert"):
    """Ask that a backup become a snapshot."""


ImageActionRequest = TransferRequest | ConvertRequest


class ImageCreateRequest(Model, frozen=True, kw_only=True):
    """Ask for a custom image, imported from a URL.

    ``headers`` (ours) are sent to the URL's host and kept secret. ``sha256`` (ours) is the file's.
    """

    name: Short | None = None
    url: Url | None = None
    headers: Headers | None = None
    sha256: Short | None = None
    region: Short | None = None
    distribution: Short | None = None
    description: Description | None = None
    tags: Tags | None = None
    format: ImportFormat | None = None


class ImageUpdateRequest(Model, frozen=True, kw_only=True):
    """Change an image's name, or a custom image's distribution and description. What is None stays."""

    name: Short | None = None
    distribution: Short | None = None
    description: Description | None = None


class UploadCreateRequest(Model, frozen=True, kw_only=True):
    """Begin an upload (ours): a custom image whose bytes the caller sends.

    With ``slug``, a public image for all accounts, in all regions: for the operator's account alone. With
    ``droplet_id``, the disk of that Droplet, and nothing else is needed. ``format`` says that the disk is raw, whatever
    it looks like. ``blocks`` begins an upload by blocks: the reply has a ``block_size`` where the service takes them.
    """

    name: Short | None = None
    region: Short | None = None
    distribution: Short | None = None
    description: Description | None = None
    tags: Tags | None = None
    format: ImportFormat | None = None
    slug: Short | None = None
    droplet_id: int | None = None
    blocks: bool | None = None


class BlockNamesRequest(Model, frozen=True, kw_only=True):
    """Ask which blocks of a disk must be sent (ours): each by the BLAKE3 digest of its bytes, 64 hexadecimal digits."""

    names: BlockNames


class CollectRequest(Model, frozen=True, kw_only=True):
    """Remove unreferenced objects (ours), in all regions or one; with ``dry_run`` only say which."""

    region: Short | None = None
    dry_run: bool | None = None


class CompactRequest(Model, frozen=True, kw_only=True):
    """Rewrite packs that are more than half dead (ours), in all regions or one; ``dry_run`` only says which.

    ``budget_bytes`` is how many bytes are rewritten at the most, or nearly so (default: the service's own budget).
    """

    region: Short | None = None
    budget_bytes: int | None = None
    dry_run: bool | None = None


class VerifyRequest(Model, frozen=True, kw_only=True):
    """Check an image in full (ours), in all its regions or in one."""

    region: Short | None = None


class ScrubRequest(Model, frozen=True, kw_only=True):
    """Check all that a region has (ours)."""

    region: Short


class BackupPolicyRequest(Model, frozen=True, kw_only=True):
    """Ask for a backup policy. ``day`` is what DigitalOcean's own example writes for ``weekday``.

    The last two may repeat what the plan has, as a policy that was read does, and ask for nothing else.
    """

    plan: Short | None = None
    weekday: Short | None = None
    day: Short | None = None
    hour: int | None = None
    window_length_hours: int | None = None
    retention_period_days: int | None = None


class DropletCreateRequest(Model, frozen=True, kw_only=True):
    """Ask for a Droplet, or with ``names`` for several that are alike.

    ``image`` is an id or a slug, ``region`` a slug, the beginning of one, or nothing; ``ssh_keys`` are ids or
    fingerprints; ``volumes`` are ids, or objects that have one.
    """

    name: Short | None = None
    names: DropletNames | None = None
    region: Short | None = None
    size: Short | None = None
    image: int | Short | None = None
    ssh_keys: SshKeys | None = None
    backups: bool | None = None
    backup_policy: BackupPolicyRequest | None = None
    ipv6: bool | None = None
    monitoring: bool | None = None
    tags: Tags | None = None
    user_data: UserData | None = None
    private_networking: bool | None = None
    volumes: Volumes | None = None
    vpc_uuid: Short | None = None
    with_droplet_agent: bool | None = None
    public_networking: bool | None = None


class DropletActionRequest(Model, frozen=True, kw_only=True):
    """Ask for something to be done to a Droplet; which of the other fields count depends on ``type``."""

    type: Short
    name: Short | None = None
    image: int | float | Short | None = None
    size: Short | None = None
    disk: bool | None = None
    kernel: int | None = None
    backup_policy: BackupPolicyRequest | None = None


class TagCreateRequest(Model, frozen=True, kw_only=True):
    """Ask for a tag."""

    name: Short | None = None


class TagResource(Model, frozen=True, kw_only=True):
    """A resource to tag. Its id is a string on the wire; a number is taken as well."""

    resource_id: Short | int
    resource_type: Short


class TagResourcesRequest(Model, frozen=True, kw_only=True):
    """Ask that resources get a tag, or lose it."""

    resources: Annotated[list[TagResource], msgspec.Meta(max_length=500)] | None = None


class SshKeyCreateRequest(Model, frozen=True, kw_only=True):
    """Ask that a public key be kept."""

    name: Short | None = None
    public_key: PublicKey | None = None


class SshKeyUpdateRequest(Model, frozen=True, kw_only=True):
    """Ask for another name of a key."""

    name: Short | None = None


class AccountTransferRequest(Model, frozen=True, kw_only=True):
    """Offer an image to another account: exactly one of the two says to whom."""

    recipient_email: Short | None = None
    recipient_uuid: Short | None = None


class AccountTransferAnswer(Model, frozen=True, kw_only=True):
    """Accept, cancel or decline an offer; ``recipient_uuid`` is for accepting alone."""

    transfer_id: int | None = None
    recipient_uuid: Short | None = None


class ExpireRequest(Model, frozen=True, kw_only=True):
    """Let backups go whose time is over (ours); with ``dry_run`` only say which."""

    dry_run: bool | None = None


class ClockRequest(Model, frozen=True, kw_only=True):
    """Set the service's clock, or move it ahead by so many seconds (test mode). Neither only reads it."""

    now: Time | None = None
    advance_s: float | None = None


class FaultRequest(Model, frozen=True, kw_only=True):
    """Let actions fail on purpose (test mode): the next ``times`` ones of this type (and in this region).

    ``error`` is the code that they error with, such as ``store_full``. ``times`` 0 takes back what was asked before.
    """

    action: Short
    error: Short = "store_unavailable"
    region: Short | None = None
    times: int = 1


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


class DropletPage(Page, frozen=True, kw_only=True):
    """A page of Droplets."""

    droplets: list[Droplet]


class DropletSnapshotPage(Page, frozen=True, kw_only=True):
    """A page of a Droplet's snapshots, as full images."""

    snapshots: list[Image]


class DropletBackupPage(Page, frozen=True, kw_only=True):
    """A page of a Droplet's backups, as full images."""

    backups: list[Image]


class BackupPolicyPage(Page, frozen=True, kw_only=True):
    """A page of backup policies: a map by the Droplets' ids, not a list."""

    policies: dict[str, BackupPolicyRecord]


class TagPage(Page, frozen=True, kw_only=True):
    """A page of tags."""

    tags: list[Tag]


class SshKeyPage(Page, frozen=True, kw_only=True):
    """A page of keys."""

    ssh_keys: list[SshKey]


class FirewallPage(Page, frozen=True, kw_only=True):
    """A page of firewalls: there are none, which Ansible asks before it creates a Droplet."""

    firewalls: list[str] = field(default_factory=list[str])


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


class ActionsReply(Model, frozen=True, kw_only=True):
    """Actions that were begun together."""

    actions: list[Action]


class DropletReply(Model, frozen=True, kw_only=True):
    """A Droplet, wrapped."""

    droplet: Droplet


class DropletCreatedReply(Model, frozen=True, kw_only=True):
    """What is being created: ``droplet`` where one ``name`` was given, ``droplets`` for ``names``.

    ``links`` leads to the action of each.
    """

    droplet: Droplet | UnsetType = UNSET
    droplets: list[Droplet] | UnsetType = UNSET
    links: CreatedLinks


class BackupPolicyReply(Model, frozen=True, kw_only=True):
    """A backup policy, wrapped."""

    policy: BackupPolicyRecord


class SupportedPoliciesReply(Model, frozen=True, kw_only=True):
    """The backup plans that there are."""

    supported_policies: list[SupportedBackupPolicy]


class TagReply(Model, frozen=True, kw_only=True):
    """A tag, wrapped."""

    tag: Tag


class SshKeyReply(Model, frozen=True, kw_only=True):
    """A key, wrapped."""

    ssh_key: SshKey


class AccountTransferReply(Model, frozen=True, kw_only=True):
    """The number of an offer; 0 for one that is accepted already."""

    transfer_id: int


class ExpiryPlanReply(Model, frozen=True, kw_only=True):
    """Which backups ``expire`` would let go (ours)."""

    plan: list[ExpiryPlan]


class ClockReply(Model, frozen=True, kw_only=True):
    """The time that the service goes by (test mode)."""

    now: Time


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


class MissingBlocksReply(Model, frozen=True, kw_only=True):
    """The blocks that must be sent, by their places in the list that was asked about, from 0 (ours)."""

    missing: list[int]


class CollectPlanReply(Model, frozen=True, kw_only=True):
    """What ``collect`` would remove, by region (ours)."""

    plan: list[CollectPlan]


class CompactPlanReply(Model, frozen=True, kw_only=True):
    """What ``compact`` would rewrite, by region (ours)."""

    plan: list[CompactPlan]


class ImageUsageReply(Model, frozen=True, kw_only=True):
    """What an image uses, by region (ours)."""

    usage: list[ImageUsage]


class UsageReply(Model, frozen=True, kw_only=True):
    """What is in the stores, by region (ours)."""

    usage: list[RegionUsage]


class ErrorReply(Model, frozen=True, kw_only=True):
    """Every error. ``id`` is for programs, ``message`` for people, ``request_id`` finds it in the service's log."""

    id: str
    message: str
    request_id: str | None = None


class TagErrorReply(ErrorReply, frozen=True, kw_only=True):
    """How a tag is refused: DigitalOcean's older shape for errors, beside the usual one."""

    error: str
    messages: list[str] | None = None
    root_causes: list[str] = field(default_factory=list[str])


# ---------------------------------------------------------------------------------------------------------- building


def prepare(*types: type[Struct]) -> None:
    """Build what msgspec knows of types, so that no two threads do it at once: the second would crash the process.

    To be called by a module for its own types while it is imported, which one thread does at a time.
    """
    for each in types:
        msgspec.json.Decoder(each)


def _kinds(of: type[Model]) -> list[type[Model]]:
    return [of, *(kind for below in of.__subclasses__() for kind in _kinds(below))]


prepare(*_kinds(Model))
