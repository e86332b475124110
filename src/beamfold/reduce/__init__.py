"""process_result: results are logged once, folded once, in event order, and the state they build is published."""
