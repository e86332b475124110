"""Serves dranspose's controller or reducer at a port of our choice: `dranspose_http.py controller|reducer PORT`.

Run by dranspose's own Python. Its command line offers no port for the controller.
"""

from __future__ import annotations

import importlib
import sys

import uvicorn

if __name__ == "__main__":
    service, port = sys.argv[1:]
    app = importlib.import_module(f"dranspose.{service}").app
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
