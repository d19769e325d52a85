//! The containerd gRPC services over the engine.
