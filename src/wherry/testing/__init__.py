"""For tests of programs that use wherry: `ServiceProcess`, a real service on a free port."""

from __future__ import annotations

from wherry.testing.service import TOKEN, ServiceProcess

__all__ = ["TOKEN", "ServiceProcess"]
