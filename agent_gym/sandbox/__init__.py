"""Running untrusted code: isolated by default, refused where it cannot be.

`make("auto")` gives a sandbox; `sandbox.run(code)` runs code once, `sandbox.session()` keeps variables and files.
"""

from agent_gym.sandbox.base import Files, Limits, Result, Sandbox, Session, Status
from agent_gym.sandbox.choosing import BACKENDS, GUARANTEES, Probe, make, probe, shared

__all__ = [
    "BACKENDS",
    "GUARANTEES",
    "Files",
    "Limits",
    "Probe",
    "Result",
    "Sandbox",
    "Session",
    "Status",
    "make",
    "probe",
    "shared",
]
