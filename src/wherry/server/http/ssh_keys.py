"""SSH keys: list, keep, read, rename, forget. A key is named by its id or its fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry import models as m
from wherry.server.http import serializers
from wherry.server.rules import lifecycle
from wherry.server.rules.public_key import read_public_key

if TYPE_CHECKING:
    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service


def list_keys(service: Service, request: RequestContext) -> m.SshKeyPage:
    """Answer ssh_keys.list."""
    limit, offset = request.window()
    with service.catalog.read() as reader:
        found, total = reader.ssh_keys(request.account_id, limit=limit, offset=offset)
    return m.SshKeyPage(ssh_keys=[serializers.ssh_key(one) for one in found], **request.page(total))


def create_key(service: Service, request: RequestContext) -> m.SshKeyReply:
    """Answer ssh_keys.create."""
    name, key = lifecycle.check_key_name(request.body.name), read_public_key(request.body.public_key)
    with service.catalog.begin() as tx:
        return m.SshKeyReply(
            ssh_key=serializers.ssh_key(tx.add_ssh_key(request.account_id, name, key.line, key.fingerprint))
        )


def get_key(service: Service, request: RequestContext) -> m.SshKeyReply:
    """Answer ssh_keys.get."""
    with service.catalog.read() as reader:
        return m.SshKeyReply(ssh_key=serializers.ssh_key(reader.ssh_key(request.account_id, request.text("key"))))


def update_key(service: Service, request: RequestContext) -> m.SshKeyReply:
    """Answer ssh_keys.update."""
    with service.catalog.begin() as tx:
        key = tx.ssh_key(request.account_id, request.text("key"))
        tx.rename_ssh_key(key.id, lifecycle.check_key_name(request.body.name))
        return m.SshKeyReply(ssh_key=serializers.ssh_key(tx.ssh_key(request.account_id, key.id)))


def delete_key(service: Service, request: RequestContext) -> None:
    """Answer ssh_keys.delete."""
    with service.catalog.begin() as tx:
        tx.remove_ssh_key(tx.ssh_key(request.account_id, request.text("key")).id)
