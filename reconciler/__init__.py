"""GitOps for Ansible batches: commit a manifest, and hosts are patched in bounded waves."""

__version__ = "0.1.0"
