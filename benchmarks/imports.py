"""How long `import agent_gym` takes, and what it drags in: median of several fresh interpreters.

python benchmarks/imports.py
"""

import statistics
import subprocess
import sys

CODE = """
import sys, time
started = time.perf_counter()
import agent_gym
print(time.perf_counter() - started, *sorted({"torch", "transformers", "gymnasium", "numpy"} & set(sys.modules)))
"""


def main() -> None:
    """Print milliseconds and the heavy modules that were imported."""
    times, dragged = [], set()
    for _ in range(11):
        seconds, *modules = subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
        ).stdout.split()
        times.append(float(seconds))
        dragged |= set(modules)
    print(f"import agent_gym: {1e3 * statistics.median(times):.1f} ms (median of {len(times)})")
    print(f"heavy modules imported with it: {', '.join(sorted(dragged)) or 'none'}")


if __name__ == "__main__":
    main()
