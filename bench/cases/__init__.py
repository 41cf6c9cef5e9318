"""What is measured: one small class a case. A module here registers its own."""
