"""Publishes in a child process, once for every line ``release folder<TAB>uri`` on standard input.

A child is forked after the imports, so that killing fifty of them does not take fifty starts of Python. The store is the
environment's. Writes the child's number when it begins, and its exit status (minus the signal's number) when it has ended.
"""

import os
import sys

from medmark.components.delivery.publish import publish
from medmark.components.storage.store import Store

for line in sys.stdin:
    folder, uri = line.rstrip("\n").split("\t")
    pid = os.fork()
    if not pid:
        publish(folder, uri, Store.from_environment())
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
