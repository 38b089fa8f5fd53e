"""What runs inside the sandbox: sent there as text, and needing nothing but the standard library."""
