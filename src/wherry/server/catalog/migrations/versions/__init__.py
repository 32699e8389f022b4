"""How the catalog's schema came to be, one step a file."""
