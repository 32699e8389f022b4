"""What an operator does beside the API: accounts and tokens, check, rebuild."""
