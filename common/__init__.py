"""What an exchange is, whatever its architecture."""
