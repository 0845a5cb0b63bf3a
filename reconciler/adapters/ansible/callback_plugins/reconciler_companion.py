"""The companion: keeps ansible-playbook to the hosts of the slice, and tells what events and stats leave out.

It appends JSON lines to the file named by RECONCILER_COMPANION; RECONCILER_COMPANION_HOSTS names the file with the
hosts of the slice, one a line. Ansible's private attributes are used here and nowhere else. Nothing it tells may break
a playbook: what goes wrong is written down as a line of its own. Only where it can't keep the playbook to the hosts of
the slice, it ends it before anything is done.

    {"kind": "playbook", "plays": [{"play", "name", "targeted": [...] or null}], "gone": [...]}
    {"kind": "play", "at", "play", "name", "planned": [...], "failed": [...], "unreachable": [...]}   of each batch
    {"kind": "held", "at", "host", "task", "failures", "failed": [...], "unreachable": [...]}     after each failure
    {"kind": "cleared", "hosts": [...]}                                by clear_host_errors, without a condition
    {"kind": "end", "at", "plays": as above, "failed": [...], "unreachable": [...], "rescued": [...],
     "tags": null or as below}
    {"kind": "error", "of", "message"}

`targeted` are our hosts in a play's pattern, null while a template that can't be read yet decides it. `failed` and
`unreachable` are the hosts that the task queue manager has given up; `failures` counts those of the host that nothing
rescued, so far. `rescued` are those of `failed` that went on all the same: stopped with another host (any_errors_fatal)
inside a block with a rescue, they ran the play to its end, and no play came after it. Where tags choose among the
tasks, `tags` is `{"only": [...], "skip": [...], "worked": [...]}`: the tags, and the plays in which they left at least
one task.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from ansible import context
from ansible.plugins.callback import CallbackBase

NOBODY = ["!all"]
"""As a limit. An empty list of patterns means no limit to Ansible."""

DOCUMENTATION = """
    name: reconciler_companion
    type: aggregate
    short_description: reports planned, failed and unreachable hosts to reconciler
    description: Used by reconciler; does nothing without the variable RECONCILER_COMPANION.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "reconciler_companion"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._path = os.environ.get("RECONCILER_COMPANION")
        self._hosts = frozenset()
        self._manager = None
        self._playbook = None
        self._play = None
        self._iterator = None
        self._iterators = {}  # by host, of the last batch that it was planned for; None: no task of it was begun
        self._worked = set()
        self._untold = []
        if self._path is None:
            self.disabled = True
            return
        with open(os.environ["RECONCILER_COMPANION_HOSTS"], encoding="utf-8") as hosts:
            self._hosts = frozenset(hosts.read().split("\n")) - {""}

    def _tell(self, kind, facts):
        try:
            found = facts()
            if found is None:  # nothing worth a line
                return
            line = {"kind": kind, **found}
        except Exception as error:  # whatever Ansible has changed inside, the playbook goes on
            line = {"kind": "error", "of": kind, "message": repr(error)}
        try:
            self._untold.append(json.dumps(line) + "\n")
            self._write("".join(self._untold))
            self._untold.clear()
        except Exception as error:  # a full disk may have room again at the next line
            self._display.warning(f"the report to reconciler could not be written: {error!r}")

    def _write(self, text):
        """All of it, or nothing."""
        report = Path(self._path)
        size = report.stat().st_size if report.exists() else 0
        try:
            with open(report, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            os.truncate(report, size)
            raise

    # -- what Ansible calls ------------------------------------------------------------------------------------------
    def v2_playbook_on_start(self, playbook):
        self._playbook = playbook
        self._keep_to_our_hosts()
        inventory = self._inventory()
        refresh = inventory.refresh_inventory

        def refreshed():  # for `meta: refresh_inventory`
            refresh()
            self._keep_to_our_hosts()

        inventory.refresh_inventory = refreshed
        self._tell("playbook", lambda: {"plays": self._targets(), "gone": self._gone()})

    def v2_playbook_on_play_start(self, play):
        self._play = play
        self._tell("play", lambda: {**_name(play), "planned": self._plan(play), **self._held()})

    def v2_playbook_on_task_start(self, task, is_conditional):
        self._tell("cleared", lambda: self._began(task))

    def v2_runner_on_skipped(self, result):
        self._tell("work", lambda: self._note_work(_task(result)))

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._tell("held", lambda: {**self._failure(result), **self._held()})

    def v2_runner_on_unreachable(self, result):
        self._tell("held", lambda: {**self._failure(result), **self._held()})

    def v2_playbook_on_stats(self, stats):
        self._tell("end", self._end)

    # -- what is kept to ---------------------------------------------------------------------------------------------
    def _keep_to_our_hosts(self):
        """What --limit gives is a list of patterns: the name of a host that is gone may be that of a group by now, and
        then means all of its hosts. So only names that are a host's stay in it."""
        inventory = self._inventory()
        inventory._subset = sorted(self._hosts & set(inventory.hosts)) or NOBODY
        others = {host.get_name() for host in inventory.get_hosts("all", ignore_restrictions=True)} - self._hosts
        if others:  # an Ansible that keeps its limit elsewhere
            raise SystemExit(
                f"ERROR! reconciler could not keep the playbook to its hosts: {sorted(others)} would be touched"
            )

    # -- what is told ------------------------------------------------------------------------------------------------
    def _plan(self, play):
        planned = self._planned(play)
        self._iterator = None
        self._iterators.update(dict.fromkeys(planned))
        return planned

    def _end(self):
        held = self._held()
        rescued = [host for host in held["failed"] if self._went_on(host)]
        return {"plays": self._targets(), **held, "rescued": rescued, "tags": self._tags()}

    def _went_on(self, host):
        iterator = self._iterators.get(host)
        return iterator is not None and not iterator.is_failed(self._inventory().get_host(host))

    def _planned(self, play):
        return self._ours(self._inventory().get_hosts(play.hosts))

    def _targets(self):
        return [{**_name(play), "targeted": self._targeted(play)} for play in self._playbook.get_plays()]

    def _targeted(self, play):
        """Without the restriction to a batch, which at the end is still that of the last one."""
        pattern = self._pattern(play)
        return None if pattern is None else self._ours(self._inventory().get_hosts(pattern, ignore_restrictions=True))

    def _pattern(self, play):
        """The play's `hosts`, its templates read; None if one of them can't be read before the play starts."""
        patterns = [play.hosts] if isinstance(play.hosts, str) else list(play.hosts)
        if not any("{{" in str(pattern) or "{%" in str(pattern) for pattern in patterns):
            return patterns
        from ansible.template import Templar

        try:
            variables = self._task_queue_manager().get_variable_manager().get_vars(play=play)
            return Templar(loader=play.get_loader(), variables=variables).template(play.hosts)
        except Exception:  # it needs a fact or a variable that is not there yet
            return None

    def _gone(self):
        return sorted(self._hosts - set(self._inventory().hosts))

    def _held(self):
        manager = self._task_queue_manager()
        return {
            "at": time.time(),
            "failed": self._of_ours(manager._failed_hosts),
            "unreachable": self._of_ours(manager._unreachable_hosts),
        }

    def _failure(self, result):
        host = _host(result)
        failures = self._task_queue_manager()._stats.failures.get(host, 0)
        return {"host": host, "task": _uuid(_task(result)), "failures": failures}

    def _began(self, task):
        """Who is forgiven by it, if anybody."""
        if self._iterator is None:  # a strategy that hides it proves nobody rescued
            self._iterator = _caller(lambda frame: frame.f_locals.get("iterator"), "is_failed", "get_host_state")
            self._iterators.update(dict.fromkeys(self._planned(self._play), self._iterator))
        # an include is there for what it includes, which has tags of its own
        if task.action.rpartition(".")[2] not in ("include_tasks", "include_role"):
            self._note_work(task)
        forgives = task.args.get("_raw_params") == "clear_host_errors" and not task.when
        if not forgives:
            return None
        planned = self._planned(self._play)
        for host in planned:  # one that had failed is not failed any more, and yet gets no further task of this play
            if not self._went_on(host):
                self._iterators[host] = None
        return {"hosts": planned}

    def _note_work(self, task):
        if task.get_ds() is not None:  # else Ansible gathers facts by itself, whatever the tags
            self._worked.add(_name(self._play)["play"])

    def _tags(self):
        only = sorted(set(context.CLIARGS.get("tags") or ()) - {"all"})
        skip = sorted(context.CLIARGS.get("skip_tags") or ())
        return {"only": only, "skip": skip, "worked": sorted(self._worked)} if only or skip else None

    def _ours(self, hosts):
        return self._of_ours(host.get_name() for host in hosts)

    def _of_ours(self, names):
        return sorted(self._hosts & {str(name) for name in names})

    def _inventory(self):
        return self._task_queue_manager().get_inventory()

    def _task_queue_manager(self):
        if self._manager is None:
            self._manager = _caller(lambda frame: frame.f_locals.get("self"), "_failed_hosts", "_unreachable_hosts")
        if self._manager is None:
            raise RuntimeError("no task queue manager is calling")
        return self._manager


def _caller(part, *attributes):
    """What calls us, and is handed to no callback: found among the callers by the attributes that it is needed for.
    None if it is not there."""
    frame = sys._getframe()
    while frame is not None:
        found = part(frame)
        if all(hasattr(found, attribute) for attribute in attributes):
            return found
        frame = frame.f_back
    return None


def _name(play):
    return {"play": _uuid(play), "name": play.get_name()}


def _uuid(thing):
    """ansible-runner's own callback appends a number to it when it comes again: for a further batch, for one."""
    return str(thing._uuid).split("_")[0]


def _host(result):
    host = getattr(result, "host", None) or result._host
    return host.get_name()


def _task(result):
    return getattr(result, "task", None) or result._task
