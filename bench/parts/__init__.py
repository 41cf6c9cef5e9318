"""What runs inside the ranks: one class a family of cases, made in every rank by the driver's command."""
