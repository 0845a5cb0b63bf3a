"""Every reason that a condition, a run, a child or a refusal can carry, with a paragraph for the person who meets it.

Reasons are a fixed enumeration: dashboards and alerts are written against them. `specs/conditions.yaml` is generated
from here.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """CamelCase, as Kubernetes conditions have it; `paragraph` says what it means and what to do."""

    paragraph: str

    def __new__(cls, value: str, paragraph: str = "") -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.paragraph = paragraph
        return member

    # -- of one host ---------------------------------------------------------------------------------------------
    TASK_FAILED = (
        "TaskFailed",
        "A task failed on this host and nothing rescued it. The message is the task's own; the host's log has the rest.",
    )
    CONNECTION_FAILED = (
        "ConnectionFailed",
        "Ansible could not connect: the host is down, the address or port is wrong, or a firewall is in the way.",
    )
    HOST_KEY_UNKNOWN = (
        "HostKeyUnknown",
        "The host's ssh key is not in known_hosts, or differs from the one there. Add it (ssh-keyscan, checked by hand) "
        "to the file named by ansible.known_hosts_file.",
    )
    AUTH_FAILED = (
        "AuthFailed",
        "The host answered and refused the login: wrong user, wrong key, or the key is not in its authorized_keys.",
    )
    BECOME_FAILED = (
        "BecomeFailed",
        "Logged in, but the change of user was refused: a missing or wrong become password, or no rule for it in sudoers.",
    )
    MISSING_COLLECTION = (
        "MissingCollection",
        "The playbook uses a module, role or collection that this machine does not have. Install it where "
        "ansible-playbook runs, or ship it in the repository.",
    )
    DEADLINE_EXCEEDED = (
        "DeadlineExceeded",
        "A deadline passed: timeouts.task for one host, timeouts.wave for a slice; what ran was ended. Or timeouts.run for a "
        "run: what ran finished, and this host was never started.",
    )
    STOPPED_WITH_OTHERS = (
        "StoppedWithOthers",
        "Ansible stopped this host because of another host's failure (any_errors_fatal, max_fail_percentage, run_once, "
        "serial), so its tasks did not all run.",
    )
    NEVER_REACHED = (
        "NeverReached",
        "A play targets this host, but the playbook ended before that play got to it.",
    )
    HOST_GONE = (
        "HostGone",
        "The host was in the inventory when the run was opened and is no longer there when its turn came.",
    )
    NOT_TARGETED = (
        "NotTargeted",
        "No play of the playbook has this host in its pattern, or `tasks.tags` and `tasks.skipTags` leave none of its "
        "tasks, so nothing was done on it.",
    )
    STOPPED_ON_FAILURE = (
        "StoppedOnFailure",
        "An earlier wave had a failure and the manifest says stopOnFailure: this host was never started.",
    )
    SLICE_LOST = (
        "SliceLost",
        "The process that ran this host vanished after it had started, and left no proof of how it ended. Look at the "
        "host before running it again.",
    )
    COMPANION_MISSING = (
        "CompanionMissing",
        "ansible-playbook ended without the report of the companion callback, so nothing proves how this host ended. "
        "See whether the callback is disabled or this ansible-core is supported.",
    )
    EXECUTOR_UNAVAILABLE = (
        "ExecutorUnavailable",
        "The process for this slice could not be started, or ended before it touched any host. It is started again.",
    )
    # -- of a run, or of a child that never started because of it ------------------------------------------------
    PLAYBOOK_BROKEN = (
        "PlaybookBroken",
        "ansible-playbook refused the playbook before any host was reached: a syntax error, an unknown module, a "
        "missing role. No host is at fault.",
    )
    NOTHING_TARGETED = (
        "NothingTargeted",
        "The plays of this playbook match none of the selected hosts, or none of its tasks has the tags, so the run did "
        "nothing. Compare `hosts:` in the playbook with the selector, and its tags with `tasks`.",
    )
    RETRY_SCHEDULED = (
        "RetryScheduled",
        "The host's last attempt did not succeed; it is tried again by itself, as `retry` says. Its attempts have their logs.",
    )
    RESOLVED = (
        "Resolved",
        "How the host ended was unknown. A person has looked at it and said how: the message has who and why.",
    )
    SUPERSEDED = (
        "Superseded",
        "A newer manifest or playbook took over before this started; `onChange` says how much of the old run goes on.",
    )
    REMOVED = ("Removed", "The manifest is gone from its source. Nothing new starts.")
    CANCELLED = ("Cancelled", "A person cancelled the run.")
    HOSTS_FAILED = ("HostsFailed", "At least one host failed, was unreachable, aborted or unknown. See `failures`.")
    SUCCEEDED = ("Succeeded", "The current spec ran with success on every host that it was to run on.")
    CHECK_MODE = ("CheckMode", "The run only looked (checkMode): nothing was changed, so it counts as no success.")
    # -- why a job stands as it does -----------------------------------------------------------------------------
    PROGRESSING = ("Progressing", "A run is in progress.")
    NOT_REQUESTED = (
        "NotRequested",
        "Nothing has asked for a run of the current spec: `runOn` does not name it. Use `reconciler trigger`.",
    )
    SUSPENDED = ("Suspended", "`suspend: true`: what runs finishes, and no new wave starts.")
    PAUSED = ("Paused", "Somebody has paused this source, or everything: what runs finishes, and nothing new starts.")
    STATE_LOST = (
        "StateLost",
        "There are status files of this job and the database knows nothing of it: it was lost, or is another one. Nothing "
        "runs before somebody says what to make of it: `reconciler adopt`.",
    )
    AWAITING_ADOPTION = (
        "AwaitingAdoption",
        "The database knows other sources, and has never seen this one: it may be one under a new name. Nothing of it runs "
        "before somebody says so: `reconciler adopt`.",
    )
    HOSTS_BUSY = ("HostsBusy", "Another run has at least one of these hosts; a host runs one thing at a time.")
    NO_FREE_SLOTS = ("NoFreeSlots", "As many children run as max_running allows.")
    ACCEPTED = ("Accepted", "The manifest is valid and in force.")
    MANIFEST_INVALID = (
        "ManifestInvalid",
        "The file is not a valid manifest. The place and the remedy are in the message; what was accepted last "
        "stays in force.",
    )
    UP_TO_DATE = ("UpToDate", "What ran last is what the source has now.")
    PLAYBOOK_CHANGED = (
        "PlaybookChanged",
        "The playbook, or a file it can reach, changed since the last successful run. `runOn: [spec, playbook]` would "
        "run it; so does `reconciler trigger`.",
    )
    HOSTS_BEHIND = (
        "HostsBehind",
        "Some selected hosts have not run the current spec with success. See `coverage`.",
    )
    # -- refusals: the operator must change something ------------------------------------------------------------
    TOO_FEW_HOSTS = ("TooFewHosts", "The selector matches fewer hosts than minHosts.")
    TOO_MANY_HOSTS = ("TooManyHosts", "The selector matches more hosts than maxHosts.")
    NO_HOST_MATCHED = ("NoHostMatched", "The selector matches no host of the inventory.")
    UNKNOWN_HOST = ("UnknownHost", "selector.hosts names a host that the inventory does not have.")
    BAD_PATTERN = ("BadPattern", "selector.pattern is not an Ansible host pattern, or names a group that is not there.")
    PATH_MISSING = ("PathMissing", "A path in the manifest names a file that the source does not have.")
    PATH_OUTSIDE_SOURCE = (
        "PathOutsideSource",
        "A path in the manifest leaves the source, by itself or through a symbolic link. Only what is in the source runs.",
    )
    PATH_UNREADABLE = (
        "PathUnreadable",
        "A file is in the source, but its permissions keep reconciler from reading it. Mend its owner or mode.",
    )
    PLAYBOOK_INVALID = ("PlaybookInvalid", "The playbook is not a YAML list of plays.")
    VARIABLE_PROMPT = (
        "VariablePrompt",
        "The playbook asks a question (vars_prompt) that nobody is there to answer. Give the variable in extraVars.",
    )
    INVENTORY_MISSING = (
        "InventoryMissing",
        "No inventory is named in the manifest, in ansible.cfg or in the settings.",
    )
    SETTINGS_INVALID = ("SettingsInvalid", "A setting is wrong: the message says which, and where it comes from.")
    # -- unavailable: the world must change ----------------------------------------------------------------------
    INVENTORY_UNREADABLE = (
        "InventoryUnreadable",
        "ansible-inventory could not read the inventory. Its words are in the message. The last good one is kept for "
        "display; nothing starts until it can be read.",
    )
    INVENTORY_EMPTY = ("InventoryEmpty", "The inventory has no hosts at all, which is taken for a fault of its source.")
    SOURCE_UNAVAILABLE = ("SourceUnavailable", "The source can't be read at the moment.")
    SOURCE_EMPTY = (
        "SourceEmpty",
        "The source suddenly has no manifests at all. That is taken for an accident: nothing is removed until one is "
        "back. To remove the last job, set `suspend: true` in it, or remove the source from the settings.",
    )
    SOURCE_TOO_LARGE = (
        "SourceTooLarge",
        "The directory is too large to copy for a run. Use git, or name what is not needed in .reconcilerignore.",
    )
    SOURCE_MOVED = ("SourceMoved", "The source changed while it was read. It is read again at once.")
    SYNCED = ("Synced", "The source was read completely.")
    SOURCE_UNREACHABLE = (
        "SourceUnreachable",
        "The git server does not answer: it is down, its name or port is wrong, or a firewall is in the way. Runs in "
        "progress go on; it is tried again with growing pauses.",
    )
    SOURCE_TIMEOUT = (
        "SourceTimeout",
        "git did not end within the source's `timeout`, and was ended. A server that accepts and never answers looks so, "
        "and a first clone that is larger than the time allows.",
    )
    SOURCE_AUTH_FAILED = (
        "SourceAuthFailed",
        "The git server refused the credentials, or knows no such repository for them. See `ssh_key_file`, `token_file` "
        "and the spelling of `url`.",
    )
    SOURCE_HOST_KEY_UNKNOWN = (
        "SourceHostKeyUnknown",
        "The git server's ssh key is not in known_hosts, or differs from the one there. Add it (ssh-keyscan, checked by "
        "hand) to the file named by the source's `known_hosts_file`.",
    )
    SOURCE_BRANCH_MISSING = (
        "SourceBranchMissing",
        "The repository has no such branch or tag, or no commit yet. Nothing is removed, and runs in progress go on.",
    )
    SOURCE_CORRUPT = (
        "SourceCorrupt",
        "The repository on this machine is damaged. A mirror of a remote is cloned again by itself; a local repository is "
        "for its owner to mend (git fsck).",
    )
    NO_SPACE = ("NoSpace", "The disk is full. Nothing is lost; it goes on once there is room.")
    SOURCE_UNSAFE = (
        "SourceUnsafe",
        "The commit has a path that no checkout would have (such as `..` or `.git`). Nothing of it is read.",
    )
    SOURCE_UNVERIFIED = (
        "SourceUnverified",
        "The newest commit is not signed by a key that the source's `verify` lists. Nothing of it runs; what was "
        "verified before stays in force.",
    )
    VERIFIED = ("Verified", "The commit is signed by a listed key.")
    SOURCE_UNKNOWN = ("SourceUnknown", "There is no source of this name here. `reconciler sources` lists them.")
    NOT_WRITABLE = (
        "NotWritable",
        "Manifests can't be put into this source from here: its setting `write` is not on, it follows a tag, or its commits "
        "must be signed by people.",
    )
    NAME_TAKEN = (
        "NameTaken",
        "The source has a manifest of this name or a file of its path. Nothing is ever written over.",
    )
    NOT_WRITTEN = (
        "NotWritten",
        "A new manifest could not be put into its source: the server refused the commit, or the disk did. Nothing of it is "
        "there.",
    )
    GIT_MISSING = ("GitMissing", "git was not found or does not start. Install it where reconciler runs.")
    STORE_UNAVAILABLE = ("StoreUnavailable", "The database does not answer.")
    NOT_LEADING = (
        "NotLeading",
        "Another daemon leads now: this one can write nothing any more. It waits as a standby.",
    )
    STATUS_NOT_WRITTEN = (
        "StatusNotWritten",
        "A status file could not be written. What was done is in the database; the file is written as soon as it can be.",
    )
    ANSIBLE_MISSING = (
        "AnsibleMissing",
        "ansible-playbook was not found or does not start. Install ansible-core, or set ansible.ansible_playbook.",
    )
    INTERNAL_ERROR = (
        "InternalError",
        "A bug of reconciler. The daemon's log has the traceback; the job is tried again with backoff.",
    )
