"""Host side of the guest agent: one connection to process 1 of a virtual machine or of a session's sandbox.

What is said: `backends.inside.agent_protocol`. Whatever runs in the guest may have taken the agent over, so
nothing that comes from there is believed: a breach of the protocol ends the connection.
"""
