"""The schemas of everything in the file: the core's, and the tables that protocol packages have of their own."""

from __future__ import annotations

from swarmd.api.swarming import tables as swarming
from swarmd.store.schema import MIGRATIONS as CORE

MIGRATIONS = {**CORE, swarming.OWNER: swarming.MIGRATIONS}
