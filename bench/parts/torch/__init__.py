"""Parts that need torch. A package of its own, so that the ranks of all other cases never load them."""
