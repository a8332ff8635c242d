"""What heads attend to, and whether it matters."""
