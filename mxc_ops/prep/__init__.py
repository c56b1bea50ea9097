"""Host preparation: connect, read facts, plan, ask, apply, check again, report.

`host.prepare_host` is the door. It starts `worker`, the only process that imports pyinfra. The needs of the
backends become `items` (pure), each carried out by one pyinfra operation in `operations`, which reads a fact
in `facts` and follows a rule in `decisions` (pure).
"""
