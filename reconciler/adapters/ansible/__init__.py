"""Ansible, through ansible-runner: a playbook in, the true outcome of every host out."""

from reconciler.adapters.ansible.runner import AnsibleOptions, AnsibleRunner, ansible_version, find_ansible_playbook

__all__ = ["AnsibleOptions", "AnsibleRunner", "ansible_version", "find_ansible_playbook"]
