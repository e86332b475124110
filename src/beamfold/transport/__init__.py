"""How bytes travel between processes: the home of sockets, keys and shared memory."""
