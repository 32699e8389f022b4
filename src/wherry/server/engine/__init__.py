"""Durable execution of actions. The door is ``Engine``.

It promises that every accepted action ends: a worker claims it, its steps run in order, and after a crash another
worker claims it again. Accepting one is a row in the catalog, so that is a single commit.
"""

from wherry.server.engine.embedded import Engine, Pool
from wherry.server.engine.runner import Kind, Runner

__all__ = ["Engine", "Kind", "Pool", "Runner"]
