"""The companion: tells, from inside ansible-playbook, what events and stats leave out.

It appends JSON lines to the file named by RECONCILER_COMPANION. Ansible's private attributes are read here and nowhere
else. Nothing it does may break a playbook: what goes wrong is written down as a line of its own.
"""

from __future__ import annotations

import json
import os
import sys

from ansible.plugins.callback import CallbackBase

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
        if self._path is None:
            self.disabled = True
            return
        with open(os.environ["RECONCILER_COMPANION_HOSTS"], encoding="utf-8") as hosts:
            self._hosts = frozenset(hosts.read().split("\n")) - {""}

    def _tell(self, kind, facts):
        try:
            line = json.dumps({"kind": kind, **facts()})
        except Exception as error:  # whatever Ansible has changed inside, the playbook goes on
            line = json.dumps({"kind": "error", "of": kind, "message": repr(error)})
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def v2_playbook_on_start(self, playbook):
        self._tell("playbook", lambda: self._playbook(playbook))

    def v2_playbook_on_play_start(self, play):
        self._tell("play", lambda: self._plans(play))

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._tell("held", self._held)

    def v2_runner_on_unreachable(self, result):
        self._tell("held", self._held)

    def v2_playbook_on_stats(self, stats):
        self._tell("end", self._held)

    def _playbook(self, playbook):
        plays = playbook.get_plays()
        known = set(self._inventory(plays[0])._inventory.hosts) if plays else set()
        return {"plays": [self._targets(play) for play in plays], "gone": sorted(self._hosts - known)}

    def _targets(self, play):
        """Our hosts in its pattern; None while a template decides what the pattern is."""
        patterns = [play.hosts] if isinstance(play.hosts, str) else play.hosts
        templated = any("{{" in str(pattern) for pattern in patterns)
        targeted = None if templated else self._ours(self._inventory(play).get_hosts(play.hosts))
        return {"play": str(play._uuid), "targeted": targeted}

    def _plans(self, play):
        """Our hosts in the batch that begins."""
        return {"play": str(play._uuid), "planned": self._ours(self._inventory(play).get_hosts(play.hosts))}

    def _inventory(self, play):
        return play.get_variable_manager()._inventory

    def _ours(self, hosts):
        return [host.name for host in hosts if host.name in self._hosts]

    def _held(self):
        """The hosts that the task queue manager, which is calling, has given up."""
        frame = sys._getframe()
        while frame is not None:
            caller = frame.f_locals.get("self")
            if hasattr(caller, "_failed_hosts") and hasattr(caller, "_unreachable_hosts"):
                return {"failed": sorted(caller._failed_hosts), "unreachable": sorted(caller._unreachable_hosts)}
            frame = frame.f_back
        raise RuntimeError("no task queue manager is calling")
