"""What people may ask of a batch, whether by the command line or by the port: decided before it is written down. What may
be tried again, core/retrying.py decides."""

from __future__ import annotations

from reconciler.core.facts import Observed
from reconciler.core.retrying import Refusal
from reconciler.core.status import JobStatus, Phase


def no_trigger(job: JobStatus) -> Refusal | None:
    """Why no run can be asked for; None: it can."""
    if job.status.phase in (Phase.INVALID, Phase.REMOVED):
        return Refusal("it has no valid manifest", f"see: reconciler status {job.metadata.source}/{job.metadata.name}")
    return None


def run_to_cancel(observed: Observed) -> str | Refusal:
    """The run (job_id) that is in progress."""
    run = observed.run
    return run.job_id if run is not None and run.open else Refusal("it has no run in progress")
