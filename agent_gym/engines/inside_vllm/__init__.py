"""What runs inside vLLM's workers, whose Python may have nothing else of this package: see `launching.worker_path`."""
