"""The nouns: frames, events, results, trigger maps, parameters, reports, errors. No IO, no clocks, no threads."""
