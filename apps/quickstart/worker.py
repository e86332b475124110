"""Map: where is the centre of mass of each image, and how bright is it?"""

import numpy as np


class CentreWorker:
    def process_event(self, event, parameters=None):
        stream = event.streams.get("camera")
        if stream is None or stream.parse().htype != "image":
            return None  # the start and the end of a series
        image = stream.array().astype(float)
        total = image.sum()
        rows, columns = np.indices(image.shape)
        centre = ((rows * image).sum() / total, (columns * image).sum() / total) if total else None
        return {"image": image, "sum": float(total), "centre": centre}
