//! Handover, a RESP proxy that hands Redis clients over from a failing backend to the next best, and back.
//!
//! Two journeys, each to be read from top to bottom:
//! *a command*: [`proxy`] (acceptor → worker → client) → [`resp`] finds the frame → [`command`] says what it is →
//! [`logic`] puts it on a lane or a pin → [`proxy`] writes it, reads the reply → the client's output;
//! *a failover*: [`control`] (prober, or outcomes of the data path) → [`logic`] judges and decides →
//! route with epoch → every worker: hold or cut, move, repeat, serve.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod app;
pub mod channels;
pub mod cli;
pub mod command;
pub mod config;
pub mod control;
pub mod events;
pub mod files;
pub mod lifecycle;
pub mod logic;
pub mod net;
pub mod proxy;
pub mod resp;
pub mod telemetry;
pub mod tls;
