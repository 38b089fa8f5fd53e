"""What runs inside a sandbox, beside the untrusted code: the standard library alone, nothing of the rest of agent_gym.

The pool (pid 1 of the outer box) makes boxes. In each box a supervisor (pid 1 there) never runs untrusted code; it
starts a worker that does, drains what it prints, ends it when its time is over, and replaces it.
"""
