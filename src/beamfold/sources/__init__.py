"""Where detector messages come in: from live sockets, or played from files."""
