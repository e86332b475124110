"""The app: a user's worker and reducer, how they are found and called, and the run file that names them."""
