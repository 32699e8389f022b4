"""What becomes of each field of a request: acted on, refused, or taken without effect, and why.

The one place for it: each request is checked by this table before its handler runs, and ``docs/guide/requests.md`` is
written from it. A test demands a row for each field of each request type. Fields that no row names are ignored, as
DigitalOcean ignores them; null, false and empty values ask for nothing, and real clients send many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wherry import models as m
from wherry.errors import Unprocessable
from wherry.server.rules.backup_policy import DAILY, RETENTION, WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WINDOW_HOURS = WINDOW.seconds // 3600


@dataclass(frozen=True)
class Effect:
    """What a field does.

    ``refused`` says when it is refused with 422, in the words of the refusal; ``refused_if`` decides that from the
    request alone, and where it is None the handler does, which knows what exists. ``no_effect`` says why nothing comes
    of the field although it is taken. One with neither is acted on.
    """

    refused: str = ""
    refused_if: Callable[[Any], object] | None = None
    no_effect: str = ""


ACTED = Effect()


def refused_if(predicate: Callable[[Any], object], why: str) -> Effect:
    """Return the effect of a field that is refused if the predicate holds for its request, and else acted on."""
    return Effect(refused=why, refused_if=predicate)


def for_a_disk(name: str) -> Effect:
    """Return the effect of a field of an upload that an image has, and the disk of a Droplet has not."""
    return refused_if(
        lambda body: body.droplet_id is not None and getattr(body, name), "the disk of a Droplet has none"
    )


ACTION_FIELDS: Mapping[str, frozenset[str]] = {
    "snapshot": frozenset({"name"}),
    "restore": frozenset({"image"}),
    "rebuild": frozenset({"image"}),
    "resize": frozenset({"size", "disk"}),
    "rename": frozenset({"name"}),
    "change_kernel": frozenset({"kernel"}),
    "enable_backups": frozenset({"backup_policy"}),
    "change_backup_policy": frozenset({"backup_policy"}),
    **dict.fromkeys(
        (
            "disable_backups", "power_on", "power_off", "shutdown", "reboot", "power_cycle", "password_reset",
            "enable_ipv6", "enable_private_networking",
        ),
        frozenset(),
    ),
}  # fmt: skip
"""Which fields each action of a Droplet takes besides its type."""


def of_action(name: str) -> Effect:
    """Return the effect of a field that some actions of a Droplet take."""
    takers = ", ".join(kind for kind, fields in ACTION_FIELDS.items() if name in fields)
    return refused_if(
        lambda body: getattr(body, name) and name not in ACTION_FIELDS.get(body.type, {name}), f"only {takers} take it"
    )


EFFECTS: Mapping[type[m.Model], Mapping[str, Effect]] = {
    m.TransferRequest: {
        "region": ACTED,
        "regions": Effect(refused="region and regions exclude each other"),
        "dry_run": ACTED,
    },
    m.ConvertRequest: {},
    m.ImageCreateRequest: {
        "name": ACTED,
        "url": ACTED,
        "headers": ACTED,
        "sha256": ACTED,
        "region": ACTED,
        "distribution": ACTED,
        "description": ACTED,
        "tags": ACTED,
        "format": ACTED,
    },
    m.ImageUpdateRequest: {
        "name": ACTED,
        "distribution": Effect(refused="only a custom image's can be changed"),
        "description": Effect(refused="only a custom image's can be changed"),
    },
    m.UploadCreateRequest: {
        "name": for_a_disk("name"),
        "region": for_a_disk("region"),
        "distribution": for_a_disk("distribution"),
        "description": for_a_disk("description"),
        "tags": for_a_disk("tags"),
        "format": ACTED,
        "slug": for_a_disk("slug"),
        "droplet_id": ACTED,
        "blocks": Effect(no_effect="with droplet_id: the disk of a Droplet comes as bytes"),
    },
    m.BlockNamesRequest: {"names": ACTED},
    m.CollectRequest: {"region": ACTED, "dry_run": ACTED},
    m.CompactRequest: {"region": ACTED, "budget_bytes": ACTED, "dry_run": ACTED},
    m.VerifyRequest: {"region": ACTED},
    m.ScrubRequest: {"region": ACTED},
    m.BackupPolicyRequest: {
        "plan": ACTED,
        "weekday": Effect(no_effect="in a daily plan, which has none; a weekly plan acts on it"),
        "day": refused_if(
            lambda policy: policy.weekday and policy.day and policy.weekday.upper() != policy.day.upper(),
            "it is another name of weekday, and both differ",
        ),
        "hour": ACTED,
        "window_length_hours": refused_if(
            lambda policy: policy.window_length_hours not in {None, 0, WINDOW_HOURS},
            f"every window has {WINDOW_HOURS} hours",
        ),
        "retention_period_days": refused_if(
            lambda policy: policy.retention_period_days not in {None, 0, _retention_days(policy)},
            "the plan sets it: " + ", ".join(f"{kept.days} days for {plan}" for plan, kept in RETENTION.items()),
        ),
    },
    m.DropletCreateRequest: {
        "name": refused_if(lambda body: body.name and body.names, "name and names exclude each other"),
        "names": ACTED,
        "region": ACTED,
        "size": ACTED,
        "image": ACTED,
        "ssh_keys": Effect(no_effect="they must exist and are kept for the machine; wherry runs none"),
        "backups": ACTED,
        "backup_policy": refused_if(
            lambda body: not body.backups and body.backup_policy is not None and _asks(body.backup_policy),
            "it needs backups to be true",
        ),
        "ipv6": ACTED,
        "monitoring": Effect(
            no_effect="nothing is monitored. The Droplet's features repeat it as its setting, since Terraform would "
            "replace a Droplet whose features lack it"
        ),
        "tags": ACTED,
        "user_data": Effect(no_effect="it is kept for the machine; wherry runs none"),
        "private_networking": Effect(no_effect="every Droplet has a private address, as DigitalOcean's have"),
        "volumes": Effect(refused="wherry has no volumes"),
        "vpc_uuid": Effect(refused="wherry has no VPCs but the default one of an account and region"),
        "with_droplet_agent": Effect(no_effect="wherry runs no machine that an agent could be on"),
        "public_networking": Effect(refused="ipv6 is true and public_networking is false"),
    },
    m.DropletActionRequest: {
        "type": ACTED,
        "name": of_action("name"),
        "image": of_action("image"),
        "size": of_action("size"),
        "disk": of_action("disk"),
        "kernel": Effect(
            refused=of_action("kernel").refused, refused_if=of_action("kernel").refused_if,
            no_effect="a disk brings its own kernel; the action completes",
        ),
        "backup_policy": of_action("backup_policy"),
    },
    m.TagCreateRequest: {"name": ACTED},
    m.TagResourcesRequest: {"resources": ACTED},
    m.TagResource: {"resource_id": ACTED, "resource_type": ACTED},
    m.SshKeyCreateRequest: {"name": ACTED, "public_key": ACTED},
    m.SshKeyUpdateRequest: {"name": ACTED},
    m.AccountTransferRequest: {"recipient_email": ACTED, "recipient_uuid": ACTED},
    m.AccountTransferAnswer: {"transfer_id": ACTED, "recipient_uuid": Effect(refused="only accept takes it")},
    m.ExpireRequest: {"dry_run": ACTED},
    m.ClockRequest: {"now": Effect(refused="now and advance_s exclude each other"), "advance_s": ACTED},
    m.FaultRequest: {"action": ACTED, "error": ACTED, "region": ACTED, "times": ACTED},
}  # fmt: skip
"""By request type and field."""


def check(body: m.Model) -> None:
    """Check that a request asks for nothing that is never acted on. Raises Unprocessable, which names the field."""
    for name, effect in EFFECTS[type(body)].items():
        value = getattr(body, name)
        if effect.refused_if is not None and effect.refused_if(body):
            raise Unprocessable(f"{name}: {effect.refused}")
        if isinstance(value, m.Model):
            check(value)


def _asks(policy: m.BackupPolicyRequest) -> bool:
    return any(getattr(policy, name) for name in policy.__struct_fields__)


def _retention_days(policy: m.BackupPolicyRequest) -> int | None:
    kept = RETENTION.get(policy.plan or DAILY)
    return kept.days if kept is not None else policy.retention_period_days  # the plan is refused by its own words
