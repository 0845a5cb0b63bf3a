"""git as a source: git's own command line, read only but for the branch that shows the status.

command.py  git as a child that can always be ended, and what its complaints mean
repository.py  commits, trees and contents of a repository on this disk
tree.py  the files of a commit, links resolved
origins.py  where the newest commit comes from: a remote with its mirror, or a local repository
signatures.py  whether a commit is signed by somebody listed
source.py  the source itself
publisher.py  the branch that shows the status
working.py  the working tree of somebody who works in a repository
"""

from reconciler.adapters.git.command import Access, Git
from reconciler.adapters.git.origins import Followed, LocalOrigin, RemoteOrigin
from reconciler.adapters.git.source import GitSource

__all__ = ["Access", "Followed", "Git", "GitSource", "LocalOrigin", "RemoteOrigin"]
