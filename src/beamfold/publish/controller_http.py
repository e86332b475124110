"""The controller's HTTP: start and watch scans, set parameters, read reports and logs.

The routes under /api/v1 and their shapes are those that scan hooks and viewers written for dranspose use,
extended. All handlers run on the controller's own loop; what would hold it up (compiling a trigger map, the
control store) runs in threads.
"""

from __future__ import annotations

from importlib.metadata import version as version_of

from fastapi import FastAPI

from beamfold.dispatch.service import ControllerService
from beamfold.publish.controller.bodies import MAX_SEQUENCE, describe
from beamfold.publish.controller.cross_site import guard
from beamfold.publish.controller.logs import add_logs
from beamfold.publish.controller.metrics import ControllerMetrics
from beamfold.publish.controller.overview import add_overview
from beamfold.publish.controller.parameters import MAX_PARAMETER, add_parameters
from beamfold.publish.controller.scans import add_scans
from beamfold.publish.metrics import add_metrics
from beamfold.publish.problems import install


def build_controller_app(service: ControllerService) -> FastAPI:
    """The app for this controller; it must be served on the loop on which `service` runs."""
    app = FastAPI(title="Beamfold controller", version=version_of("beamfold"), docs_url=None, redoc_url=None)
    install(app)
    guard(app)
    add_scans(app, service)
    add_parameters(app, service)
    add_overview(app, service)
    add_logs(app, service)
    add_metrics(app, ControllerMetrics(service.machine))
    describe(app)
    return app


__all__ = ["MAX_PARAMETER", "MAX_SEQUENCE", "build_controller_app"]
