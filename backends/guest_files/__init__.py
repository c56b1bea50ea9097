"""The files of a policy on their way into a virtual machine and back, all of it the host's side.

Read-only grants become a disk, read-write grants an archive that is copied in; after a normal exit what the
workload changed is copied back. The order of the calls::

    plan_files(view, …) ─▶ FilesPlan                                  (pure)        plan.py
    build_disk(plan, handles) ─▶ Disk                                               disk.py
    for each of plan.guest_steps: a mount, or a PUT of put_content(…) ─▶ Snapshot   archive.py
    … the workload runs, and exits …
    for each of plan.writable: copy_back(grant, snapshot, handles, GET …) ─▶ CopyBack   copy_back.py
    recover(journals) at the next start, for what was killed in between                 recover.py
"""
