"""process_event: a worker assembles its parts from the ingesters and runs the user's class over them."""
