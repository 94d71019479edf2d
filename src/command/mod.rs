//! Commands, pure: what a command is, where it may travel, and whether it may be repeated.
