# Generated from ../_async/droplets.py by scripts/sync_client.py: change that file, then run make sync-client.
"""The Droplets of ``Client``: their actions, backups, disks and SSH keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from wherry import models as m
from wherry.client import operations as ops
from wherry.client._sync.images import Images, Snapshots
from wherry.client._sync.resource import Pages, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wherry.client._sync.transport import Transport
    from wherry.client.files import Exported
    from wherry.client.transport import RequestOptions


class DropletActions(Resource):
    """Actions of a Droplet."""

    def initiate(
        self, droplet_id: int, *, type: ops.DropletActionType, name: str | None = None,  # noqa: A002  the wire's word
        image: int | str | None = None, size: str | None = None, disk: bool | None = None, kernel: int | None = None,
        backup_policy: m.BackupPolicyRequest | None = None, idempotency_key: str | None = None,
        options: RequestOptions | None = None,
    ) -> m.Action:  # fmt: skip
        """Begin an action of a Droplet. Which of the other arguments apply depends on ``type``.

        A snapshot may have a ``name``, and rename takes one; restore takes the ``image`` that is one of the Droplet's
        backups, rebuild any image's id or slug; resize takes a ``size``, and ``disk`` to enlarge the disk for good;
        change_backup_policy takes a ``backup_policy``, and enable_backups may have one. disable_backups deletes the
        backups that there are. Raises TypeError where they do not fit, and RequestError.
        """
        request = m.DropletActionRequest(
            type=type, name=name, image=image, size=size, disk=disk, kernel=kernel, backup_policy=backup_policy
        )
        return self._transport.send(ops.create_droplet_action(droplet_id, request, idempotency_key), options)

    def bulk_initiate(
        self, *, tag_name: str, type: ops.DropletActionType, name: str | None = None,  # noqa: A002  the wire's word
        image: int | str | None = None, size: str | None = None, disk: bool | None = None, kernel: int | None = None,
        backup_policy: m.BackupPolicyRequest | None = None, options: RequestOptions | None = None,
    ) -> list[m.Action]:  # fmt: skip
        """Begin an action of every Droplet with a tag: of all or of none.

        Not every type can be asked for in bulk. Raises TypeError and RequestError as ``initiate`` does.
        """
        request = m.DropletActionRequest(
            type=type, name=name, image=image, size=size, disk=disk, kernel=kernel, backup_policy=backup_policy
        )
        return self._transport.send(ops.create_tagged_droplet_actions(tag_name, request), options)

    def list(self, droplet_id: int, *, options: RequestOptions | None = None) -> Pages[m.Action]:
        """A Droplet's actions, newest first."""
        return Pages(lambda page: self._transport.send(ops.list_droplet_actions(droplet_id, page), options))

    def retrieve(self, action_id: int, *, droplet_id: int, options: RequestOptions | None = None) -> m.Action:
        """Read an action of a Droplet. Raises NotFound."""
        return self._transport.send(ops.get_droplet_action(droplet_id, action_id), options)


class Backups(Resource):
    """When Droplets are backed up. The backups themselves: ``gpu_droplets.list_backups``."""

    def list_policies(self, *, options: RequestOptions | None = None) -> Pages[m.BackupPolicyRecord]:
        """The backup policies of all Droplets that have one."""
        return Pages(lambda page: self._transport.send(ops.list_backup_policies(page), options))

    def retrieve_policy(self, droplet_id: int, *, options: RequestOptions | None = None) -> m.BackupPolicyRecord:
        """Read a Droplet's backup policy, or that it has none. Raises NotFound."""
        return self._transport.send(ops.get_backup_policy(droplet_id), options)

    def list_supported_policies(self, *, options: RequestOptions | None = None) -> list[m.SupportedBackupPolicy]:
        """The backup plans: their days, hours (UTC) and how many days a backup is kept."""
        return self._transport.send(ops.list_supported_policies(), options)


class Disks(Resource):
    """The disks of Droplets, as files (wherry only)."""

    def export(
        self, droplet_id: int, path: str | Path, *, format: m.ExportFormat = "raw",  # noqa: A002  the wire's word
        compress: m.Compression | None = None,
        on_progress: Callable[[int, int | None], object] | None = None,
    ) -> Exported:  # fmt: skip
        """Write a Droplet's disk to a file, checked against its fingerprint where it is raw.

        A connection that breaks is taken up where it broke. ``on_progress`` hears the bytes that came and the bytes in
        all. ``compress`` makes it a compressed raw file, whose size is not known before and which can't be resumed.
        Raises BlockCorrupt, RequestError, or ConnectionFailed when it breaks without anything having come.
        """
        return self._fetch_file(
            lambda offset, etag: ops.export_disk(droplet_id, format, compress, offset, etag),
            Path(path),
            compress or format,
            on_progress,
        )

    def import_(
        self, droplet_id: int, path: str | Path, *, format: m.ImportFormat | None = None,  # noqa: A002  the wire's word
        resume: str | None = None,
        on_begin: Callable[[str], object] | None = None, on_progress: Callable[[int, int], object] | None = None,
    ) -> m.Action:  # fmt: skip
        """Send a disk image's bytes and begin to replace a Droplet's disk by it; what was on the disk is gone then.

        ``format="raw"`` says that the disk is raw, whatever it looks like.

        ``resume`` is the id of an upload that broke off, which ``on_begin`` was told. ``on_progress`` hears the bytes
        that are safely kept and the bytes in all. Raises RequestError, ConnectionFailed.
        """
        request = m.UploadCreateRequest(droplet_id=droplet_id, format=format)
        upload = self._send_file(Path(path), request, resume, on_begin, on_progress)
        return self._transport.send(ops.import_disk(droplet_id, upload.id))


class Keys(Resource):
    """SSH keys. ``key`` is an id or a fingerprint."""

    def create(self, *, name: str, public_key: str, options: RequestOptions | None = None) -> m.SshKey:
        """Add a public key, as a line of authorized_keys. Raises Unprocessable if it is not a key."""
        return self._transport.send(ops.create_ssh_key(name, public_key), options)

    def list(self, *, options: RequestOptions | None = None) -> Pages[m.SshKey]:
        """The keys."""
        return Pages(lambda page: self._transport.send(ops.list_ssh_keys(page), options))

    def retrieve(self, key: int | str, *, options: RequestOptions | None = None) -> m.SshKey:
        """Read a key. Raises NotFound."""
        return self._transport.send(ops.get_ssh_key(key), options)

    def update(self, key: int | str, *, name: str, options: RequestOptions | None = None) -> m.SshKey:
        """Rename a key. Raises NotFound."""
        return self._transport.send(ops.update_ssh_key(key, name), options)

    def delete(self, key: int | str, *, options: RequestOptions | None = None) -> None:
        """Delete a key. Droplets that were created with it keep it. Raises NotFound."""
        self._transport.send(ops.delete_ssh_key(key), options)


class DropletAccount(Resource):
    """What an account has for its Droplets."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.keys = Keys(transport)


class GpuDroplets(Resource):
    """Droplets of all kinds and what belongs to them, under the name that DigitalOcean's SDK gives it."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.account = DropletAccount(transport)
        self.actions = DropletActions(transport)
        self.backups = Backups(transport)
        self.disks = Disks(transport)
        self.images = Images(transport)
        self.snapshots = Snapshots(transport)

    def create(
        self, *, name: str, size: str, image: int | str, idempotency_key: str | None = None,
        options: RequestOptions | None = None, **further: Unpack[ops.DropletOptions],
    ) -> ops.CreatedDroplet:  # fmt: skip
        """Create a Droplet from an image's id or slug, and return it with the action to wait for.

        ``further`` is what ``DropletOptions`` lists: region, ssh_keys, backups, backup_policy, tags, user_data and so
        on. Raises TypeError for what it does not list, and RequestError.
        """
        return self._transport.send(ops.create_droplet(name, size, image, further, idempotency_key), options)

    def create_many(
        self, *, names: Sequence[str], size: str, image: int | str, idempotency_key: str | None = None,
        options: RequestOptions | None = None, **further: Unpack[ops.DropletOptions],
    ) -> list[ops.CreatedDroplet]:  # fmt: skip
        """Create up to ten Droplets that are alike, one for each name: all of them or none. Else as ``create``."""
        return self._transport.send(ops.create_droplets(names, size, image, further, idempotency_key), options)

    def list(
        self, *, tag_name: str | None = None, name: str | None = None,
        type: Literal["droplets", "gpus"] | None = None, options: RequestOptions | None = None,  # noqa: A002  the wire's word
    ) -> Pages[m.Droplet]:  # fmt: skip
        """Droplets, newest first: with one tag, or of one name, in any case. GPU Droplets only with ``type="gpus"``."""
        return Pages(lambda page: self._transport.send(ops.list_droplets(page, tag_name, name, type), options))

    def retrieve(self, droplet_id: int, *, options: RequestOptions | None = None) -> m.Droplet:
        """Read a Droplet. Raises NotFound."""
        return self._transport.send(ops.get_droplet(droplet_id), options)

    def delete(self, droplet_id: int, *, options: RequestOptions | None = None) -> None:
        """Delete a Droplet and its backups; its snapshots stay. Raises NotFound, and Unprocessable while it is busy."""
        self._transport.send(ops.delete_droplet(droplet_id), options)

    def delete_by_tag(self, *, tag_name: str, options: RequestOptions | None = None) -> None:
        """Delete all Droplets with a tag, as ``delete`` does. Raises TypeError for an empty tag, and RequestError."""
        self._transport.send(ops.delete_tagged_droplets(tag_name), options)

    def list_snapshots(self, droplet_id: int, *, options: RequestOptions | None = None) -> Pages[m.Image]:
        """A Droplet's snapshots, as images."""
        return Pages(lambda page: self._transport.send(ops.list_droplet_snapshots(droplet_id, page), options))

    def list_backups(self, droplet_id: int, *, options: RequestOptions | None = None) -> Pages[m.Image]:
        """A Droplet's backups, as images."""
        return Pages(lambda page: self._transport.send(ops.list_droplet_backups(droplet_id, page), options))
