"""Windows hosts: the connector, and what scripts for them are made of. Only the connector loads pyinfra."""
