//! The data plane: client socket → frame → class → lane or pin → backend → reply.
