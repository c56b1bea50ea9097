"""The files of a policy on their way into a virtual machine and back, all of it the host's side.

Read-only grants become a disk, read-write grants an archive that is copied in; after a normal exit what the
workload changed is copied back. The order of the calls::

    plan_files(view, …) ─▶ FilesPlan                                  (pure)        plan.py
    build_disk(plan, handles) ─▶ Disk                                               disk.py
    check_copies(plan, handles)                                                     archive.py
    for each of plan.guest_steps: a mount, or a PUT of put_content(…) ─▶ Snapshot   archive.py
    … the workload runs, and exits …
    for each of plan.writable: GET get_request(…) ─▶ copy_back(…) ─▶ CopyBack       copy_back.py
    recover(journals) at the next start, for what was killed in between             recover.py

A directory is never replaced as a whole: who stands in it, such as the shell that called us for its own
directory, or watches it, would be left with the old one, and what was not handed over would have to move. The
unit is the file: its successor takes its place by `RENAME_EXCHANGE` where the directory may be written to,
else it is written in place; a journal makes one transaction of all of them.
"""
