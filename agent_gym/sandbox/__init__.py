"""Running untrusted code: isolated by default, refused where it cannot be."""
