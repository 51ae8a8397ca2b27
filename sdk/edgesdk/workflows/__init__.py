"""What a user asks for, a file for each."""
