//! The control plane: probes, detector, breaker, decision. One owner of health and of the route.
