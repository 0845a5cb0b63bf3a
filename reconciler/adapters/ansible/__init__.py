"""Ansible, through ansible-runner: a playbook in, the true outcome of every host out."""

from reconciler.adapters.ansible.launch import AnsibleOptions, ansible_version, find_ansible_playbook
from reconciler.adapters.ansible.runner import AnsibleRunner, tidy_up

__all__ = ["AnsibleOptions", "AnsibleRunner", "ansible_version", "find_ansible_playbook", "tidy_up"]
