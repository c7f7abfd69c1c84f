"""The confined workers: where code that does not lift runs. See sandbox/README.md for what confines them.

Nothing here is imported by the trainer's side except `wire`, `levels` and, to start it, the path of `zygote`.
"""
