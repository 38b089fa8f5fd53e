"""Exchange with other tools: what a run holds, written in formats that others read, and read from those of others."""
