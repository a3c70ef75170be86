"""The command line and the one-machine supervisor: puts the parts together.

`cli` is the entry of the program. `demo` and `run` start everything on this machine through `supervisor`, which runs
each service of `service` in a process of its own; `terminal` shows what they find out, and `report` compares what was
sent with what was stored. Nothing here computes a flow: that is `processing`.
"""
