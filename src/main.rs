//! The process: arguments, configuration, logging, runtimes, exit code.

fn main() {}
