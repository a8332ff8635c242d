"""What sets of heads do: patched, counted, scanned over layers, in other settings."""
