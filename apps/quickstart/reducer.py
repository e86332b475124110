"""Reduce: the sum of all images, and brightness and centre of mass per event."""

import math


class CentreReducer:
    def __init__(self, parameters=None, **kwargs):
        self.publish = {"image": 0.0, "event": [], "sum": [], "row": [], "column": []}

    def process_result(self, result, parameters=None):
        found = result.payload
        row, column = found["centre"] or (math.nan, math.nan)
        self.publish["image"] = self.publish["image"] + found["image"]
        self.publish["event"].append(result.event_number)
        self.publish["sum"].append(found["sum"])
        self.publish["row"].append(row)
        self.publish["column"].append(column)
