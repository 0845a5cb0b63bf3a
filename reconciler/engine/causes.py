"""Which causes a job has that nobody wrote down yet: the playbook changed, or hosts joined.

A change of the manifest is noticed when it is accepted (catalogue.py), a request when it is read (reconcile.py). What
is left is found here by comparing what is wanted with what ran. Each cause has a key that is the same however often it
is found, and different the next time the same thing happens.
"""

from __future__ import annotations

import hashlib

from reconciler.core.facts import CauseKind, Observed, RunStatus
from reconciler.core.manifest import BatchJob, BatchJobSpec, OnHostsJoined, RunOn
from reconciler.core.facts import JobKey
from reconciler.core.planning import Blocked, Desired
from reconciler.ports import NewCause


def of_manifest(key: JobKey, job: BatchJob, generation: int, before: BatchJob | None) -> tuple[NewCause, ...]:
    raise NotImplementedError
