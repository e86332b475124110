"""The controller's HTTP, by concern; `beamfold.publish.controller_http` puts it together."""
