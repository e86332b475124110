"""The controller's own machine among simulated services, in virtual time. See docs/scaling.md."""
