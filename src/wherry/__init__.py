"""The typed Python client of wherry, a disk-image service that speaks DigitalOcean's v2 API.

    from wherry import Client

    client = Client(token="...", base_url="http://127.0.0.1:8080")
    action = client.gpu_droplets.images.actions.create(62137902, type="transfer", region="ams3")
    action = client.actions.wait(action)

Without arguments, ``WHERRY_TOKEN`` and ``WHERRY_URL`` are read from the environment, then DigitalOcean's variables.
"""

from wherry.client import AsyncClient, Client, CreatedDroplet, RequestOptions
from wherry.errors import (
    ActionErrored,
    ActionTimeout,
    BadRequest,
    CertificateNotTrusted,
    Conflict,
    ConnectionFailed,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    NotServed,
    RangeNotSatisfiable,
    RateLimited,
    RequestError,
    ServerFault,
    Unauthorized,
    Unavailable,
    Unprocessable,
    WherryError,
)
from wherry.models import (
    Account,
    Action,
    ActionError,
    BackupPolicyRecord,
    BackupPolicyRequest,
    CollectPlan,
    CompactPlan,
    Droplet,
    ExpiryPlan,
    Image,
    ImageUsage,
    Progress,
    Region,
    RegionUsage,
    Size,
    Snapshot,
    SshKey,
    SupportedBackupPolicy,
    Tag,
    TransferPlan,
)

__all__ = [
    "Account",
    "Action",
    "ActionError",
    "ActionErrored",
    "ActionTimeout",
    "AsyncClient",
    "BackupPolicyRecord",
    "BackupPolicyRequest",
    "BadRequest",
    "CertificateNotTrusted",
    "Client",
    "CollectPlan",
    "CompactPlan",
    "Conflict",
    "ConnectionFailed",
    "CreatedDroplet",
    "Droplet",
    "ExpiryPlan",
    "Forbidden",
    "Image",
    "ImageUsage",
    "MethodNotAllowed",
    "NotFound",
    "NotServed",
    "Progress",
    "RangeNotSatisfiable",
    "RateLimited",
    "Region",
    "RegionUsage",
    "RequestError",
    "RequestOptions",
    "ServerFault",
    "Size",
    "Snapshot",
    "SshKey",
    "SupportedBackupPolicy",
    "Tag",
    "TransferPlan",
    "Unauthorized",
    "Unavailable",
    "Unprocessable",
    "WherryError",
]
