"""Looking into runs: a web page served from their folders, or written as one file that needs no server."""
